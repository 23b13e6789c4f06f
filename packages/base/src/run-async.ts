/**
 * The event-loop runner: operations are started and settle later, and conditions are looked at when the thread's
 * doorbell rings. It never blocks the thread.
 */
import type { Clock, Co, Operation } from "./coroutine.ts";
import { Runner, type Task } from "./runner.ts";
import type { Waiter } from "./waiter.ts";

/** What an event loop has to offer. */
export interface EventLoop extends Clock {
  /** Calls back soon, after the current call stack. */
  defer(callback: () => void): void;
  /** Calls back after `delayMs`; the returned function cancels. */
  timer(delayMs: number, callback: () => void): () => void;
  /** Keeps the process alive until the returned function is called: a pending `Atomics.waitAsync` does not. */
  keepAlive(): () => void;
}

/** Coroutines that never have to wait leave the event loop to others after this long. */
const TURN_MS = 10;

export class AsyncRunner extends Runner {
  readonly #loop: EventLoop;
  readonly #waiter: Waiter | undefined;
  #turnScheduled = false;
  #listening = false;
  #cancelTimer: (() => void) | undefined;
  #timerDeadlineMs: number | undefined;
  #running = 0;
  #turnEndMs = 0;
  #releaseLoop: (() => void) | undefined;

  constructor(loop: EventLoop, waiter?: Waiter) {
    super();
    this.#loop = loop;
    this.#waiter = waiter;
  }

  /** Starts a coroutine; the promise settles with its result. */
  run<T>(co: Co<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.spawn(co, (error, value) => (error === undefined ? resolve(value as T) : reject(error)));
    });
  }

  override spawn<T>(co: Co<T>, settled: (error: unknown, value?: T) => void): void {
    this.#running += 1;
    this.#releaseLoop ??= this.#loop.keepAlive();
    super.spawn(co, (error, value?: T) => {
      this.#running -= 1;
      if (this.#running === 0) this.#rest();
      settled(error, value);
    });
  }

  /** Looks at every parked condition soon: for whoever makes one true on this thread from outside a coroutine. */
  wake(): void {
    this.#scheduleTurn();
  }

  protected override turnIsOver(): boolean {
    return this.#loop.now() >= this.#turnEndMs;
  }

  protected override onRunnable(): void {
    this.#scheduleTurn();
  }

  protected override operate(operation: Operation, task: Task): boolean {
    operation.start((error, value) => {
      task.failed = error !== undefined;
      task.resumeWith = task.failed ? error : value;
      this.makeRunnable(task);
    });
    return false;
  }

  #scheduleTurn(): void {
    if (this.#turnScheduled) return;
    this.#turnScheduled = true;
    this.#loop.defer(() => this.#turn());
  }

  #turn(): void {
    this.#turnScheduled = false;
    const seen = this.#waiter?.snapshot() ?? 0;
    this.#turnEndMs = this.#loop.now() + TURN_MS;
    this.advanceAll();
    if (this.runnable.length > 0) this.#scheduleTurn();
    if (!this.hasParked) return;
    this.#listen(seen);
    this.#armTimer();
  }

  /** Keeps one `waitAsync` pending while something is parked. */
  #listen(seen: number): void {
    if (this.#waiter === undefined || this.#listening) return;
    const rung = this.#waiter.waitAsync(seen);
    if (rung === undefined) {
      this.#scheduleTurn();
      return;
    }
    this.#listening = true;
    void rung.then(() => {
      this.#listening = false;
      this.#turn();
    });
  }

  #armTimer(): void {
    const deadline = this.earliestDeadlineMs();
    if (deadline === undefined || deadline === this.#timerDeadlineMs) return;
    this.#cancelTimer?.();
    this.#timerDeadlineMs = deadline;
    this.#cancelTimer = this.#loop.timer(Math.max(0, deadline - this.#loop.now()), () => {
      this.#timerDeadlineMs = undefined;
      this.#turn();
    });
  }

  #rest(): void {
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    this.#timerDeadlineMs = undefined;
    this.#releaseLoop?.();
    this.#releaseLoop = undefined;
  }
}
