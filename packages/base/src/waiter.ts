/**
 * How a runner's thread sleeps until something changes. `shared-memory` implements it with the thread's doorbell;
 * the runners know only this.
 */
export interface Waiter {
  /** A number that changes with every ring. Take it *before* looking at the conditions. */
  snapshot(): number;
  /** Blocks this thread until the number is no longer `seen`, or for at most `timeoutMs`. */
  wait(seen: number, timeoutMs?: number): void;
  /** The same without blocking; undefined when the number has already changed. */
  waitAsync(seen: number, timeoutMs?: number): Promise<unknown> | undefined;
}
