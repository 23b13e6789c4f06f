/**
 * The sleep of a thread whose work comes from another process: it waits in `poll` for eventfds, and for rings of its
 * doorbell, which come through an eventfd as well while it sleeps there.
 */
import type { Waiter } from "@spindle/base";
import { type SharingCalls, sharingCalls } from "@spindle/host-node";
import type { Thread } from "@spindle/shared-memory";

export class PollWaiter implements Waiter {
  readonly #calls: SharingCalls = sharingCalls();
  readonly #thread: Thread;
  readonly #event: number;
  #descriptors: readonly number[];
  readonly #slept: ((durationMs: number) => void) | undefined;

  /**
   * @param event an eventfd of this thread, which rings wake it through
   * @param slept told how long each sleep was that one of the other descriptors has ended
   */
  constructor(thread: Thread, event: number, slept?: (durationMs: number) => void) {
    this.#thread = thread;
    this.#event = event;
    this.#descriptors = [event];
    this.#slept = slept;
  }

  /** The eventfds that end a sleep beside the thread's own; they are drained. */
  set descriptors(descriptors: readonly number[]) {
    this.#descriptors = [this.#event, ...descriptors];
  }

  snapshot(): number {
    return this.#thread.snapshot();
  }

  wait(seen: number, timeoutMs?: number): void {
    const begin = this.#slept === undefined ? 0 : performance.now();
    let ready = 0;
    this.#thread.waitIn(this.#event, seen, () => {
      ready = this.#calls.poll(this.#descriptors, timeoutMs);
    });
    for (let index = 0; ready >> index !== 0; index++)
      if (((ready >> index) & 1) !== 0) this.#calls.drain(this.#descriptors[index] as number);
    if (ready > 1) this.#slept?.(performance.now() - begin);
  }

  waitAsync(seen: number, timeoutMs?: number): Promise<unknown> | undefined {
    return this.#thread.waitAsync(seen, timeoutMs);
  }
}
