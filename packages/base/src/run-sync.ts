/**
 * The blocking runner: operations are performed in place with blocking calls, and the thread sleeps on its doorbell
 * when every coroutine waits for a condition. For workers and tools; it needs no event loop.
 */
import { AssertionError } from "./assert.ts";
import type { Clock, Co, Operation } from "./coroutine.ts";
import { Runner, type Task } from "./runner.ts";
import type { Waiter } from "./waiter.ts";

export class SyncRunner extends Runner {
  readonly #clock: Clock;
  readonly #waiter: Waiter | undefined;

  /** Without a waiter the runner serves one thread alone, and waiting for what nobody can make true is an error. */
  constructor(clock: Clock, waiter?: Waiter) {
    super();
    this.#clock = clock;
    this.#waiter = waiter;
  }

  /** Runs one coroutine to its end, advancing the others beside it, and returns its result or throws its error. */
  run<T>(co: Co<T>): T {
    let outcome: { error: unknown; value: T | undefined } | undefined;
    this.spawn(co, (error, value) => {
      outcome = { error, value };
    });
    this.runUntil(() => outcome !== undefined);
    const ended = outcome as unknown as { error: unknown; value: T };
    if (ended.error !== undefined) throw ended.error;
    return ended.value;
  }

  /** Advances everything and sleeps, until `finished()` holds. It is looked at after every ring of the doorbell. */
  runUntil(finished: () => boolean): void {
    for (;;) {
      const seen = this.#waiter?.snapshot() ?? 0;
      this.advanceAll();
      if (finished()) return;
      this.idle(seen);
    }
  }

  /** Advances everything that can go on without sleeping. */
  poll(): void {
    this.advanceAll();
  }

  protected override operate(operation: Operation, task: Task): boolean {
    try {
      task.resumeWith = operation.perform();
    } catch (error) {
      task.failed = true;
      task.resumeWith = error;
    }
    return true;
  }

  /** Every coroutine waits: sleeps until the doorbell rings, or a coroutine wants to be looked at. */
  protected idle(seen: number): void {
    const deadline = this.earliestDeadlineMs();
    const timeoutMs = deadline === undefined ? undefined : Math.max(0, deadline - this.#clock.now());
    if (this.#waiter === undefined) {
      if (timeoutMs === undefined)
        throw new AssertionError("deadlock: every coroutine of this thread waits for another");
      blockFor(timeoutMs);
    } else this.#waiter.wait(seen, timeoutMs);
  }
}

function blockFor(durationMs: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, durationMs);
}
