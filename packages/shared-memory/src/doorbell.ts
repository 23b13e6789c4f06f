/**
 * The one thing that a thread sleeps on: a number in shared memory that every ring changes. A thread takes the number,
 * looks at all its conditions, and sleeps only while the number is still the same, so a ring between the look and the
 * sleep is never lost (docs/locking.md).
 */
import type { Waiter } from "@spindle/base";

export class Doorbell implements Waiter {
  readonly #words: Int32Array;
  readonly #rings: number;
  readonly #sleeping: number;
  /** Sleepers of this thread. Only the thread itself writes the word, so its death in between leaves it too high at worst. */
  #sleepers = 0;

  /** @param first index of its two words: the number of rings, and how many sleepers its thread has */
  constructor(words: Int32Array, first: number) {
    this.#words = words;
    this.#rings = first;
    this.#sleeping = first + 1;
  }

  /** Forgets the sleepers of a thread that had this doorbell before. */
  reset(): void {
    Atomics.store(this.#words, this.#sleeping, 0);
  }

  /** Wakes the thread, or keeps it from falling asleep. Any thread may call it. */
  ring(): void {
    Atomics.add(this.#words, this.#rings, 1);
    // A sleeper counts itself before it compares the number, and the number has changed before this look: either the
    // sleeper is seen here, or it sees the change and does not sleep.
    if (Atomics.load(this.#words, this.#sleeping) !== 0) Atomics.notify(this.#words, this.#rings);
  }

  snapshot(): number {
    return Atomics.load(this.#words, this.#rings);
  }

  wait(seen: number, timeoutMs?: number): void {
    this.#fallAsleep();
    Atomics.wait(this.#words, this.#rings, seen, timeoutMs);
    this.#wakeUp();
  }

  waitAsync(seen: number, timeoutMs?: number): Promise<unknown> | undefined {
    this.#fallAsleep();
    const result = Atomics.waitAsync(this.#words, this.#rings, seen, timeoutMs);
    if (result.async) return result.value.then(() => this.#wakeUp());
    this.#wakeUp();
    return undefined;
  }

  #fallAsleep(): void {
    this.#sleepers += 1;
    Atomics.store(this.#words, this.#sleeping, this.#sleepers);
  }

  #wakeUp(): void {
    this.#sleepers -= 1;
    Atomics.store(this.#words, this.#sleeping, this.#sleepers);
  }
}
