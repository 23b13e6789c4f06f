/**
 * What each sector of a disk must hold, as its only writer knows it: one word a sector, in shared memory, so that a
 * guest's thread notes and another verifies at the end.
 */
import type { SectorStamp } from "./sector-stamp.ts";
import { hasStamp, isZeroSector } from "./sector-stamp.ts";

/** Set when the sector was zeroed last. */
const ZEROED = 2 ** 24;
/** Set when it was discarded: it holds zeros, or what the rest of the word says. */
const DISCARDED = 2 ** 25;
const SEQUENCE_MASK: number = 2 ** 24 - 1;

/** Answers whether a sector, beginning at word `at`, holds what the base image has there. */
export type BaseCheck = (words: Uint32Array, at: number, sectorIndex: number) => boolean;

export class SectorStates {
  readonly memory: SharedArrayBuffer;
  readonly #words: Int32Array;

  static allocate(sectorCount: number): SharedArrayBuffer {
    return new SharedArrayBuffer(sectorCount * 4);
  }

  constructor(memory: SharedArrayBuffer) {
    this.memory = memory;
    this.#words = new Int32Array(memory);
  }

  noteWritten(sectorIndex: number, sequence: number): void {
    this.#words[sectorIndex] = sequence;
  }

  noteZeroed(sectorIndex: number): void {
    this.#words[sectorIndex] = ZEROED;
  }

  noteDiscarded(sectorIndex: number): void {
    this.#words[sectorIndex] = (this.#words[sectorIndex] as number) | DISCARDED;
  }

  /** Whether only the base image has been here. */
  isUntouched(sectorIndex: number): boolean {
    return ((this.#words[sectorIndex] as number) & ~DISCARDED) === 0;
  }

  /** Whether the sector, which `writer` alone writes, holds what it must. */
  holds(words: Uint32Array, at: number, sectorIndex: number, writer: number, isBase: BaseCheck): boolean {
    const state = this.#words[sectorIndex] as number;
    if ((state & DISCARDED) !== 0 && isZeroSector(words, at)) return true;
    if ((state & ZEROED) !== 0) return isZeroSector(words, at);
    const sequence = state & SEQUENCE_MASK;
    if (sequence === 0) return isBase(words, at, sectorIndex);
    const stamp: SectorStamp = { writer, sequence, sectorIndex };
    return hasStamp(words, at, stamp);
  }

  /** What the sector must hold, in words for a report. */
  describe(sectorIndex: number, writer: number): string {
    const state = this.#words[sectorIndex] as number;
    const sequence = state & SEQUENCE_MASK;
    const content = sequence === 0 ? "base" : `guest ${writer}, write ${sequence}, sector ${sectorIndex}`;
    const known = (state & ZEROED) !== 0 ? "zeros" : content;
    return (state & DISCARDED) !== 0 ? `zeros or ${known}` : known;
  }
}
