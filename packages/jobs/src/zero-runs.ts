/** Finds the clusters of a buffer that are all zeros, so that they need not be stored. */

/** A run of clusters of one kind. Offsets count in the buffer. */
export interface ZeroRun {
  readonly start: number;
  readonly end: number;
  readonly zero: boolean;
}

/** Cuts a buffer into runs of units that are all zeros and units that are not. The last unit may be short. */
export function zeroRuns(
  buffer: Uint8Array,
  unit: number,
  isZero: (part: Uint8Array) => boolean = isAllZero,
): ZeroRun[] {
  const runs: ZeroRun[] = [];
  let start = 0;
  let kind: boolean | undefined;
  for (let offset = 0; offset < buffer.length; offset += unit) {
    const zero = isZero(buffer.subarray(offset, Math.min(offset + unit, buffer.length)));
    if (kind !== undefined && zero !== kind) {
      runs.push({ start, end: offset, zero: kind });
      start = offset;
    }
    kind = zero;
  }
  if (kind !== undefined) runs.push({ start, end: buffer.length, zero: kind });
  return runs;
}

/** Whether all bytes are zero. Data is found out at its first bytes as a rule. */
export function isAllZero(bytes: Uint8Array): boolean {
  const head = (8 - (bytes.byteOffset % 8)) % 8;
  if (bytes.length < head + 8) return bytes.every((byte) => byte === 0);
  for (let index = 0; index < head; index++) if (bytes[index] !== 0) return false;
  const wordCount = Math.floor((bytes.length - head) / 8);
  const words = new Float64Array(bytes.buffer, bytes.byteOffset + head, wordCount);
  // Object.is tells -0, which has its sign bit set, from 0.
  for (let index = 0; index < wordCount; index++) if (!Object.is(words[index], 0)) return false;
  for (let index = head + wordCount * 8; index < bytes.length; index++) if (bytes[index] !== 0) return false;
  return true;
}
