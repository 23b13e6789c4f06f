/** The value of `-r`: bytes a second. */
import { sizeArgument } from "./size-text.ts";

/** @returns 0 when no limit is given. @throws {BlockError} EINVAL when it is no size. */
export function rateOption(text = "0"): number {
  return sizeArgument("rate limit", text);
}
