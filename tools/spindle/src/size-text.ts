/** Sizes among the arguments: bytes, or with a suffix k, M, G, T, P or E; and what QEMU says of a text that is none. */
import { BlockError, isBlockError, parseExactSize, parseSize } from "@spindle/base";
import { programName } from "./program-name.ts";

/** Bytes. @param what the argument is, such as `image size`. @throws {BlockError} EINVAL when the text is no size. */
export function sizeArgument(what: string, text: string): number {
  try {
    return parseSize(text);
  } catch (error) {
    if (isBlockError(error, "EFBIG"))
      throw new BlockError("EINVAL", `Invalid ${what} specified. Must be between 0 and ${2n ** 63n - 1n}.`);
    // QEMU says this in two errors.
    const hint = `${programName()}: kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.`;
    throw new BlockError("EINVAL", `Invalid ${what} specified. You may use k, M, G, T, P or E suffixes for`, { hint });
  }
}

/** The same, of an argument that need not be there. */
export function optionalSize(what: string, text: string | undefined): number | undefined {
  return text === undefined ? undefined : sizeArgument(what, text);
}

/** Bytes, of the option `size`. @throws {BlockError} EINVAL when the text is no size. */
export function sizeParameter(text: string): number {
  try {
    return parseSize(text);
  } catch (error) {
    // It is a size, and one that no disk here can have.
    if (isBlockError(error, "EFBIG")) throw error;
    throw new BlockError("EINVAL", "Parameter 'size' expects a non-negative number below 2^64", {
      hint: "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively.",
    });
  }
}

/** A size of which QEMU can speak and that no format here can have; undefined for all others. */
export function hugeSize(text: string | undefined): bigint | undefined {
  if (text === undefined) return undefined;
  try {
    const size = parseExactSize(text);
    return size > BigInt(Number.MAX_SAFE_INTEGER) && size < 2n ** 63n ? size : undefined;
  } catch {
    return undefined;
  }
}
