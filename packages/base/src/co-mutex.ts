/** A first-in, first-out mutex among the coroutines of one thread. */
import { assert } from "./assert.ts";
import type { Co } from "./coroutine.ts";

export class CoMutex {
  #nextTicket = 0;
  #serving = 0;

  get locked(): boolean {
    return this.#nextTicket !== this.#serving;
  }

  /** Waits for its turn. Pair with {@link unlock} in a `finally`. Not recursive. */
  *lock(): Co<void> {
    const ticket = this.#nextTicket++;
    if (ticket !== this.#serving) yield { kind: "condition", ready: () => this.#serving === ticket };
  }

  unlock(): void {
    assert(this.locked, "unlock of a mutex that nobody holds");
    this.#serving += 1;
  }

  /** Runs `body` under the mutex. */
  *run<T>(body: () => Co<T>): Co<T> {
    yield* this.lock();
    try {
      return yield* body();
    } finally {
      this.unlock();
    }
  }
}
