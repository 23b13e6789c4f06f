/** Sizes: constants, and the text forms that people type and read. */
import { BlockError } from "./errors.ts";

export const KiB = 1024;
export const MiB: number = 1024 * KiB;
export const GiB: number = 1024 * MiB;
export const TiB: number = 1024 * GiB;

/** The unit of virtio-blk and of sector arithmetic: 512 bytes. */
export const SECTOR_SIZE = 512;

const SUFFIX_POWERS: Readonly<Record<string, number>> = { b: 0, k: 1, m: 2, g: 3, t: 4, p: 5, e: 6 };

/**
 * Reads a size as qemu-img does: decimal or 0x-hexadecimal digits, a fraction before a suffix (without one it is zeros), and one of the
 * suffixes b, k, M, G, T, P, E in either case (powers of 1024). Without a suffix it counts bytes.
 * @returns bytes, a whole number up to 2^53 - 1; a fraction of a byte is cut off.
 * @throws {BlockError} EINVAL when the text is no size, EFBIG when it is above 2^53 - 1.
 */
export function parseSize(text: string): number {
  const size = parseExactSize(text);
  if (size > BigInt(Number.MAX_SAFE_INTEGER)) throw new BlockError("EFBIG", `size '${text}' is too large`);
  return Number(size);
}

/** The same without a limit. @throws {BlockError} EINVAL when the text is no size. */
export function parseExactSize(text: string): bigint {
  const match = /^(?:(0x[0-9a-f]+)|(\d+)(\.\d*)?([bkmgtpe])?)$/i.exec(text.trim());
  if (match === null) throw new BlockError("EINVAL", `'${text}' is not a size`);
  const [, hexadecimal, whole = "0", fraction = "", suffix = "b"] = match;
  if (hexadecimal !== undefined) return BigInt(hexadecimal);
  const unit = 1024n ** BigInt(SUFFIX_POWERS[suffix.toLowerCase()] ?? 0);
  if (/[1-9]/.test(fraction) && unit === 1n) throw new BlockError("EINVAL", `'${text}' is not a whole number of bytes`);
  const digits = fraction.slice(1);
  const part = digits === "" ? 0n : (BigInt(digits) * unit) / 10n ** BigInt(digits.length);
  return BigInt(whole) * unit + part;
}

/** Writes a size as qemu-img does: three significant digits and a binary unit, such as `1.5 GiB` or `512 B`. */
export function formatSize(bytes: number): string {
  const names = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
  let power = 0;
  let value = bytes;
  // QEMU changes to the next unit from 1000 on, so that three digits are enough.
  while (value >= 999.5 && power < names.length - 1) {
    value /= 1024;
    power += 1;
  }
  return `${Number(value.toPrecision(3))} ${names[power]}`;
}
