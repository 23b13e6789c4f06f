/**
 * What all runners share: a queue of coroutines that can go on, a list of those parked on a condition, and the
 * loop that advances them. What an operation becomes, and how to idle, is each runner's own.
 */
import { assert, unreachable } from "./assert.ts";
import type { Co, Condition, Join, Operation, Settle } from "./coroutine.ts";

/** One running coroutine and what it is resumed with next. */
export interface Task {
  readonly co: Co<unknown>;
  readonly settled: Settle;
  failed: boolean;
  resumeWith: unknown;
}

interface Parked {
  readonly task: Task;
  readonly condition: Condition;
}

export abstract class Runner {
  /** Tasks that can go on. */
  protected readonly runnable: Task[] = [];
  #parked: Parked[] = [];
  #advancing = false;

  /**
   * Starts a coroutine beside those already running. It advances at the runner's next turn, not inside this call.
   * `settled` is called once, from the runner's loop, and must not throw.
   */
  spawn<T>(co: Co<T>, settled: (error: unknown, value?: T) => void): void {
    this.makeRunnable({ co, settled: settled as Settle, failed: false, resumeWith: undefined });
  }

  /** Whether some coroutine waits for a condition. */
  protected get hasParked(): boolean {
    return this.#parked.length > 0;
  }

  /** The earliest time at which a parked coroutine wants to be looked at, or undefined. */
  protected earliestDeadlineMs(): number | undefined {
    let earliest: number | undefined;
    for (const { condition } of this.#parked) {
      const deadline = condition.deadlineMs;
      if (deadline !== undefined && (earliest === undefined || deadline < earliest)) earliest = deadline;
    }
    return earliest;
  }

  /** Called when a task became runnable: event-loop runners schedule a turn here. */
  protected onRunnable(): void {}

  /** Picks the next runnable task; the simulator picks at random. */
  protected pick(): Task | undefined {
    return this.runnable.shift();
  }

  /**
   * Begins an operation for a task.
   * @returns true when the operation is already over and `task.failed` and `task.resumeWith` are set.
   */
  protected abstract operate(operation: Operation, task: Task): boolean;

  protected makeRunnable(task: Task): void {
    this.runnable.push(task);
    this.onRunnable();
  }

  /** Whether a turn has lasted long enough: what can still go on goes on in the next one. */
  protected turnIsOver(): boolean {
    return false;
  }

  /** Advances everything that can go on, until all coroutines wait or the turn is over. */
  protected advanceAll(): void {
    assert(!this.#advancing, "a runner is not re-entrant: a coroutine called back into its own runner");
    this.#advancing = true;
    try {
      do {
        for (let task = this.pick(); task !== undefined; task = this.pick()) this.#advance(task);
        this.#unpark();
      } while (this.runnable.length > 0 && !this.turnIsOver());
    } finally {
      this.#advancing = false;
    }
  }

  #unpark(): void {
    if (this.#parked.length === 0) return;
    const still: Parked[] = [];
    for (const parked of this.#parked) {
      if (parked.condition.ready()) this.runnable.push(parked.task);
      else still.push(parked);
    }
    this.#parked = still;
  }

  #advance(task: Task): void {
    for (;;) {
      let step: IteratorResult<Operation | Condition | Join, unknown>;
      try {
        step = task.failed ? task.co.throw(task.resumeWith) : task.co.next(task.resumeWith);
      } catch (error) {
        task.settled(error);
        return;
      }
      if (step.done === true) {
        task.settled(undefined, step.value);
        return;
      }
      task.failed = false;
      task.resumeWith = undefined;
      const suspension = step.value;
      switch (suspension.kind) {
        case "operation":
          if (!this.operate(suspension, task)) return;
          break;
        case "condition":
          if (!suspension.ready()) {
            this.#parked.push({ task, condition: suspension });
            return;
          }
          break;
        case "join":
          this.#join(suspension, task);
          return;
        default:
          unreachable(suspension);
      }
    }
  }

  #join(join: Join, parent: Task): void {
    const results: unknown[] = new Array(join.children.length);
    let running = join.children.length;
    let failure: { error: unknown } | undefined;
    join.children.forEach((child, index) => {
      this.spawn(child, (error, value) => {
        if (error !== undefined) failure ??= { error };
        results[index] = value;
        running -= 1;
        if (running > 0) return;
        parent.failed = failure !== undefined;
        parent.resumeWith = failure === undefined ? results : failure.error;
        this.makeRunnable(parent);
      });
    });
  }
}
