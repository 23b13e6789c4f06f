/**
 * A thread's doorbell that counts how long the thread slept on it with copies in flight: they all waited for the chain
 * then, and more of them could have waited side by side.
 */
import type { Clock, Waiter } from "@spindle/base";

export class MeteredWaiter implements Waiter {
  readonly #waiter: Waiter;
  readonly #clock: Clock;
  #sleptMs = 0;
  /** Copies in flight on this thread. */
  copies = 0;

  constructor(waiter: Waiter, clock: Clock) {
    this.#waiter = waiter;
    this.#clock = clock;
  }

  /** Milliseconds since the last call. */
  takeSleptMs(): number {
    const slept = this.#sleptMs;
    this.#sleptMs = 0;
    return slept;
  }

  snapshot(): number {
    return this.#waiter.snapshot();
  }

  wait(seen: number, timeoutMs?: number): void {
    const startMs = this.#clock.now();
    this.#waiter.wait(seen, timeoutMs);
    if (this.copies > 0) this.#sleptMs += this.#clock.now() - startMs;
  }

  waitAsync(seen: number, timeoutMs?: number): Promise<unknown> | undefined {
    return this.#waiter.waitAsync(seen, timeoutMs);
  }
}
