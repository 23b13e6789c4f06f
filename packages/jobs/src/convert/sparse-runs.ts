/** Which parts of a piece are stored: data, and zeros too short to be left out. */
import type { ZeroRun } from "../zero-runs.ts";

/**
 * Cuts a piece into runs that are stored and runs of zeros. What is looked at are units of the disk, so that
 * a unit that a piece begins or ends inside of counts as far as the piece goes.
 * @param offset where the piece stands in the disk, a multiple of 8
 * @param unit a power of two and a multiple of 8
 * @param shortest zeros between data that are shorter than this are stored
 */
export function sparseRuns(piece: Uint8Array, offset: number, unit: number, shortest: number): ZeroRun[] {
  const runs: ZeroRun[] = [];
  const words = wordsOf(piece);
  for (let start = 0; start < piece.length; ) {
    const end = Math.min(piece.length, start + unit - ((offset + start) % unit));
    add(runs, { start, end, zero: isZero(piece, words, start, end) });
    start = end;
  }
  const joined: ZeroRun[] = [];
  runs.forEach((run, index) => {
    const isBetweenData = index > 0 && index < runs.length - 1;
    add(joined, run.zero && isBetweenData && run.end - run.start < shortest ? { ...run, zero: false } : run);
  });
  return joined;
}

/** Adds a run, as a part of the last one where that is of its kind. */
function add(runs: ZeroRun[], run: ZeroRun): void {
  const last = runs.at(-1);
  if (last?.zero === run.zero) runs[runs.length - 1] = { ...last, end: run.end };
  else runs.push(run);
}

/** The piece in words, or undefined where it does not stand on a word. */
function wordsOf({ buffer, byteOffset, length }: Uint8Array): Float64Array | undefined {
  return byteOffset % 8 === 0 ? new Float64Array(buffer, byteOffset, Math.floor(length / 8)) : undefined;
}

function isZero(piece: Uint8Array, words: Float64Array | undefined, start: number, end: number): boolean {
  // Data is found out at its first bytes as a rule.
  if (piece[start] !== 0 || piece[end - 1] !== 0) return false;
  if (words === undefined || start % 8 !== 0 || end % 8 !== 0) {
    for (let index = start; index < end; index++) if (piece[index] !== 0) return false;
    return true;
  }
  // Object.is tells -0, which has its sign bit set, from 0.
  for (let index = start / 8; index < end / 8; index++) if (!Object.is(words[index], 0)) return false;
  return true;
}
