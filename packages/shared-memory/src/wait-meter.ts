/** How long requests have waited, over all threads: words of the lock's header that only waiting ever touches. */
import type { Clock } from "@spindle/base";

/** Words of the header: microseconds in total, in two of them, and the longest wait. */
const TOTAL_WORD = 60;
const LONGEST_WORD = 62;

export class WaitMeter {
  readonly #clock: Clock;
  readonly #total: BigInt64Array;
  readonly #words: Int32Array;

  constructor(memory: SharedArrayBuffer, clock: Clock) {
    this.#clock = clock;
    this.#total = new BigInt64Array(memory, TOTAL_WORD * Int32Array.BYTES_PER_ELEMENT, 1);
    this.#words = new Int32Array(memory);
  }

  /** When a wait begins. */
  begin(): number {
    return this.#clock.now();
  }

  /** Adds a wait that began at `beganMs`. */
  end(beganMs: number): void {
    const microseconds = Math.round((this.#clock.now() - beganMs) * 1000);
    Atomics.add(this.#total, 0, BigInt(microseconds));
    const most = Math.min(microseconds, 2 ** 31 - 1);
    for (let seen = Atomics.load(this.#words, LONGEST_WORD); seen < most; ) {
      const found = Atomics.compareExchange(this.#words, LONGEST_WORD, seen, most);
      if (found === seen) return;
      seen = found;
    }
  }
}

/** What all meters of a lock have added up. */
export function waitedMs(memory: SharedArrayBuffer): { total: number; longest: number } {
  const total = Atomics.load(new BigInt64Array(memory, TOTAL_WORD * Int32Array.BYTES_PER_ELEMENT, 1), 0);
  return { total: Number(total) / 1000, longest: Atomics.load(new Int32Array(memory), LONGEST_WORD) / 1000 };
}
