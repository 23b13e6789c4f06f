/**
 * How fast a job may go: a budget of bytes for every slice of 100 ms. Going over it makes the slice longer in
 * proportion, so that the mean holds whatever the size of one copy is.
 */
import type { Clock } from "@spindle/base";

const SLICE_MS = 100;

export class RateLimit {
  readonly #clock: Clock;
  #speed: number;
  #sliceStartMs: number;
  #spent = 0;
  #changes = 0;

  /** @param speed bytes per second; 0 for no limit */
  constructor(clock: Clock, speed: number) {
    this.#clock = clock;
    this.#speed = speed;
    this.#sliceStartMs = clock.now();
  }

  get speed(): number {
    return this.#speed;
  }

  /** Grows with every {@link setSpeed}, so that whoever waits can look again. */
  get changes(): number {
    return this.#changes;
  }

  /** Takes effect at once: what was spent before is forgotten. */
  setSpeed(speed: number): void {
    this.#speed = speed;
    this.#changes += 1;
    this.#spent = 0;
    this.#sliceStartMs = this.#clock.now();
  }

  /** Bytes of one slice's budget; Infinity without a limit. */
  get sliceBytes(): number {
    return this.#speed === 0 ? Number.POSITIVE_INFINITY : Math.max(1, (this.#speed * SLICE_MS) / 1000);
  }

  /** How long to wait before more may be copied, in milliseconds; 0 to go on. */
  delayMs(): number {
    if (this.#speed === 0 || this.#spent < this.sliceBytes) return this.#startSliceIfOver();
    const endMs = this.#sliceStartMs + (this.#spent / this.sliceBytes) * SLICE_MS;
    const nowMs = this.#clock.now();
    if (nowMs < endMs) return endMs - nowMs;
    this.#sliceStartMs = nowMs;
    this.#spent = 0;
    return 0;
  }

  spend(bytes: number): void {
    this.#spent += bytes;
  }

  #startSliceIfOver(): 0 {
    const nowMs = this.#clock.now();
    if (nowMs - this.#sliceStartMs > SLICE_MS) {
      this.#sliceStartMs = nowMs;
      this.#spent = 0;
    }
    return 0;
  }
}
