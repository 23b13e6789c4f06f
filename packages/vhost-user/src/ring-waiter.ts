/**
 * The sleep of a thread whose work comes from another process, in the same call in which its transfers are handed over and
 * waited for: kicks, and rings of its doorbell, come through eventfds that the ring watches.
 */
import type { Waiter } from "@spindle/base";
import type { IoRing } from "@spindle/host-node";
import type { Thread } from "@spindle/shared-memory";

export class RingWaiter implements Waiter {
  readonly #thread: Thread;
  readonly #event: number;
  readonly #ring: IoRing;
  readonly #slept: (durationMs: number) => void;
  #unwatch: (() => void)[] = [];
  #kicked = false;

  /**
   * @param event an eventfd of this thread, which rings wake it through
   * @param slept told how long each sleep was that a kick has ended
   */
  constructor(thread: Thread, event: number, ring: IoRing, slept: (durationMs: number) => void) {
    this.#thread = thread;
    this.#event = event;
    this.#ring = ring;
    this.#slept = slept;
    ring.watch(event, () => {});
  }

  /** The eventfds that end a sleep beside the thread's own. */
  set descriptors(descriptors: readonly number[]) {
    for (const end of this.#unwatch) end();
    this.#unwatch = descriptors.map((descriptor) =>
      this.#ring.watch(descriptor, () => {
        this.#kicked = true;
        // A kick may be called back after the last look at the virtqueue: the number changes, and nobody falls asleep.
        this.#thread.ring();
      }),
    );
  }

  snapshot(): number {
    return this.#thread.snapshot();
  }

  wait(seen: number, timeoutMs?: number): void {
    const begin = performance.now();
    this.#kicked = false;
    this.#thread.waitIn(this.#event, seen, () => this.#ring.submitAndWait(timeoutMs));
    this.#ring.submit();
    this.#ring.reap();
    if (this.#kicked) this.#slept(performance.now() - begin);
  }

  waitAsync(seen: number, timeoutMs?: number): Promise<unknown> | undefined {
    return this.#thread.waitAsync(seen, timeoutMs);
  }
}
