/** Who is where, kept beside the lock: a word for every thread and unit, so that a dead thread can be taken out. */
import type { LockKind, RangeLockHandle, ThreadTableHandle } from "../../src/index.ts";

export const UNITS = 24;
const KINDS = 5;
const MAX_THREADS = 64;

export interface StressSetup {
  readonly threads: ThreadTableHandle;
  readonly lock: RangeLockHandle;
  readonly ghosts: SharedArrayBuffer;
  /** Words: stop, requests done, requests canceled. */
  readonly counters: SharedArrayBuffer;
  readonly seed: number;
}

/** By kind: kinds that may be in the same place (read, write, exclusive write, copy, change). */
const MAY_MEET = [
  [true, true, true, true, false],
  [true, true, false, false, false],
  [true, false, false, false, false],
  [true, false, false, false, false],
  [false, false, false, false, false],
];

export class GhostRanges {
  readonly #words: Int32Array;
  readonly #thread: number;

  static create(): SharedArrayBuffer {
    return new SharedArrayBuffer((MAX_THREADS * UNITS + 1) * 4);
  }

  constructor(memory: SharedArrayBuffer, thread: number) {
    this.#words = new Int32Array(memory);
    this.#thread = thread;
  }

  /**
   * Says where the thread is and looks who else is there; a meeting that may not be is counted in the last word.
   * Of two threads that enter at once at least one sees the other: both store before they look.
   */
  enter(kind: LockKind, start: number, end: number): void {
    for (let unit = start; unit < end; unit++) Atomics.store(this.#words, this.#at(this.#thread, unit), kind + 1);
    for (let thread = 0; thread < MAX_THREADS; thread++) {
      if (thread === this.#thread) continue;
      for (let unit = start; unit < end; unit++) {
        const other = Atomics.load(this.#words, this.#at(thread, unit)) - 1;
        if (other >= 0 && other < KINDS && MAY_MEET[kind]?.[other] === false)
          Atomics.add(this.#words, MAX_THREADS * UNITS, 1);
      }
    }
  }

  leave(start: number, end: number): void {
    for (let unit = start; unit < end; unit++) Atomics.store(this.#words, this.#at(this.#thread, unit), 0);
  }

  get clashes(): number {
    return Atomics.load(this.#words, MAX_THREADS * UNITS);
  }

  #at(thread: number, unit: number): number {
    return thread * UNITS + unit;
  }
}
