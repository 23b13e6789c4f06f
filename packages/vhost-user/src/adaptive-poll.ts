/**
 * Looking for work before sleeping: a sleep and a wake-up cost about 20 us on either side, and a busy driver comes back
 * sooner. The time for which it looks follows what the driver does: it grows when a sleep was so short that looking would
 * have found its end, and shrinks when looking has found nothing.
 */

/** The first time for which it looks after a short sleep. */
const START_MS = 0.004;
/** Looks between two looks at the clock. */
const TURNS = 8;

export class AdaptivePoll {
  readonly #maxMs: number;
  #windowMs = 0;

  /** @param maxUs microseconds for which it looks at most; 0 switches it off */
  constructor(maxUs: number) {
    this.#maxMs = maxUs / 1000;
  }

  /** For how long it would look now, in milliseconds. */
  get windowMs(): number {
    return this.#windowMs;
  }

  /** Looks until `found()` holds, or for as long as it pays. */
  look(found: () => boolean): void {
    if (this.#windowMs === 0) return;
    const end = performance.now() + this.#windowMs;
    do {
      for (let turn = 0; turn < TURNS; turn++) if (found()) return;
    } while (performance.now() < end);
    this.#windowMs = this.#windowMs <= START_MS ? 0 : this.#windowMs / 2;
  }

  /** A sleep has ended because there was work again. */
  slept(durationMs: number): void {
    if (durationMs <= this.#maxMs) this.#windowMs = Math.min(this.#maxMs, Math.max(START_MS, this.#windowMs * 2));
  }
}
