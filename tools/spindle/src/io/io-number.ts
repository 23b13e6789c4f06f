/** Numbers as the commands of the shell take them. */
import { parseExactSize, SECTOR_SIZE } from "@spindle/base";
import { CommandFailure } from "./io-command.ts";

const INT64_MAX = 2n ** 63n - 1n;

/** The most that one request may transfer: what fits into a C `int`, in whole sectors. */
export const REQUEST_BYTES_MAX: number = 2 ** 31 - SECTOR_SIZE;

/**
 * An offset or a length in bytes. Above 2^53 - 1 it is not exact, and beyond the end of every disk.
 * @throws {CommandFailure} when the text is no size, or above 2^63 - 1.
 */
export function ioSize(text: string): number {
  let size: bigint;
  try {
    size = parseExactSize(text);
  } catch {
    throw new CommandFailure(`Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- ${text}`);
  }
  if (size > INT64_MAX) throw new CommandFailure(`Parsing error: argument too large -- ${text}`);
  return Number(size);
}

/** The byte of a pattern. @throws {CommandFailure} when it is none. */
export function ioPattern(text: string): number {
  const value = cInteger(text);
  if (value === undefined || value < 0 || value > 0xff) throw new CommandFailure(`${text} is not a valid pattern byte`);
  return value;
}

/** @throws {CommandFailure} when it is no number of milliseconds. */
export function ioMilliseconds(text: string): number {
  const value = cInteger(text);
  if (value === undefined || value < 0) throw new CommandFailure(`${text} is not a valid number`);
  return value;
}

/** The lengths of the buffers of one request. @throws {CommandFailure} when one, or all together, are too long. */
export function bufferLengths(texts: readonly string[]): readonly number[] {
  let total = 0;
  return texts.map((text) => {
    const length = ioSize(text);
    if (length > REQUEST_BYTES_MAX)
      throw new CommandFailure(`Argument '${text}' exceeds maximum size ${REQUEST_BYTES_MAX}`);
    total += length;
    if (total > REQUEST_BYTES_MAX)
      throw new CommandFailure(`The total number of bytes exceed the maximum size ${REQUEST_BYTES_MAX}`);
    return length;
  });
}

/** As C's `strtol` reads a whole text with the base 0. */
function cInteger(text: string): number | undefined {
  const match = /^\s*([+-]?)(?:0x([0-9a-f]+)|(0[0-7]*)|([1-9]\d*))$/i.exec(text);
  if (match === null) return undefined;
  const [, sign, hexadecimal, octal, decimal] = match;
  const size =
    hexadecimal === undefined
      ? octal === undefined
        ? Number(decimal)
        : Number.parseInt(octal, 8)
      : Number.parseInt(hexadecimal, 16);
  return sign === "-" ? -size : size;
}
