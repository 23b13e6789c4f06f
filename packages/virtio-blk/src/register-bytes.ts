/** Register values as little-endian bytes, and which accesses of registers there can be. */

export type AccessWidth = 1 | 2 | 4;

/** Whether an access that an emulator passes on is one that a guest could have made. */
export function isAccess(offset: number, width: number): boolean {
  return Number.isSafeInteger(offset) && offset >= 0 && (width === 1 || width === 2 || width === 4);
}

export function littleEndian(value: number, width: AccessWidth): Uint8Array {
  return Uint8Array.from({ length: width }, (_, index) => value >>> (8 * index));
}

export function littleEndianValue(bytes: Uint8Array): number {
  return bytes.reduceRight((value, byte) => value * 256 + byte, 0);
}
