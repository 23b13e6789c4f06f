/**
 * A waiter that looks at the doorbell a number of times before it sleeps. A wake-up costs about 20 microseconds, so a
 * queue worker that spins for as long answers a busy guest sooner, at the price of a processor.
 */
import type { Waiter } from "@spindle/base";

export class SpinningWaiter implements Waiter {
  readonly #waiter: Waiter;
  readonly #turns: number;

  /** @param turns looks before sleeping, at some nanoseconds each. */
  constructor(waiter: Waiter, turns: number) {
    this.#waiter = waiter;
    this.#turns = turns;
  }

  snapshot(): number {
    return this.#waiter.snapshot();
  }

  wait(seen: number, timeoutMs?: number): void {
    if (timeoutMs === undefined || timeoutMs > 0)
      for (let turn = 0; turn < this.#turns; turn++) if (this.#waiter.snapshot() !== seen) return;
    this.#waiter.wait(seen, timeoutMs);
  }

  waitAsync(seen: number, timeoutMs?: number): Promise<unknown> | undefined {
    return this.#waiter.waitAsync(seen, timeoutMs);
  }
}
