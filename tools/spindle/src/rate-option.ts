/** The value of `-r`: bytes a second. */
import { parseSize } from "@spindle/base";
import { UsageError } from "./command.ts";

/** What stands behind messages about sizes. */
export const SIZE_SUFFIXES =
  "You may use k, M, G, T, P or E suffixes for kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.";

/** @returns 0 when no limit is given. @throws {UsageError} in qemu-img's words when it is no size. */
export function rateOption(text = "0"): number {
  return sizeOr(text, `Invalid rate limit specified. ${SIZE_SUFFIXES}`);
}

/** @throws {UsageError} with the message when the text is no size. */
export function sizeOr(text: string, otherwise: string): number {
  try {
    return parseSize(text);
  } catch {
    throw new UsageError(otherwise);
  }
}
