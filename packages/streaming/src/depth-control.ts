/**
 * How many copies one worker has in flight. It begins with a few, so that the next is there when one ends, and doubles
 * while the worker sleeps although it has as many as it may: then it waits for the chain and not for the processor.
 */

const DEPTH_START = 4;

/** A worker that sleeps for a larger part of its time than this can take more. */
const IDLE_PART = 0.15;

/** One look covers at least so much time, so that a single late wake-up decides nothing. */
const WINDOW_MS = 4;

export class DepthControl {
  readonly #depthMax: number;
  #depth: number;
  #windowStartMs: number | undefined;
  #idleMs = 0;
  #ends = 0;
  #wasFull = false;

  /** @param fixed the depth that the user wants; undefined to find out */
  constructor(depthMax: number, fixed?: number) {
    this.#depthMax = fixed === undefined ? depthMax : Math.min(fixed, depthMax);
    this.#depth = fixed === undefined ? Math.min(DEPTH_START, depthMax) : this.#depthMax;
  }

  get depth(): number {
    return this.#depth;
  }

  /** A copy was handed to the worker, which now has `inFlight` of them. */
  started(inFlight: number): void {
    if (inFlight >= this.#depth) this.#wasFull = true;
  }

  /** A copy ended, and the worker has slept `idleMs` over copies in flight since the one before. */
  ended(idleMs: number, nowMs: number): void {
    if (this.#windowStartMs === undefined) {
      this.#windowStartMs = nowMs;
      return;
    }
    this.#idleMs += idleMs;
    this.#ends += 1;
    const elapsedMs = nowMs - this.#windowStartMs;
    if (this.#ends < this.#depth || elapsedMs < WINDOW_MS) return;
    if (this.#wasFull && this.#idleMs > elapsedMs * IDLE_PART) this.#depth = Math.min(this.#depth * 2, this.#depthMax);
    this.#windowStartMs = nowMs;
    this.#idleMs = 0;
    this.#ends = 0;
    this.#wasFull = false;
  }
}
