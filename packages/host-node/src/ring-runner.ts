/**
 * The blocking runner with a ring: transfers of files go into this thread's io_uring, many at once, and the system call that
 * hands them over is the one in which the thread sleeps. All else, and transfers of memory that may move, is done in place.
 */
import { type Clock, type Operation, SyncRunner, type Task, type Waiter } from "@spindle/base";
import { FileTransfer } from "./file-transfer.ts";
import { systemError } from "./host-errors.ts";
import type { IoRing } from "./io-ring.ts";

export class RingRunner extends SyncRunner {
  readonly #ring: IoRing;
  #transfers = 0;

  /** @param waiter sleeps in the ring */
  constructor(clock: Clock, waiter: Waiter, ring: IoRing) {
    super(clock, waiter);
    this.#ring = ring;
  }

  /** Whether coroutines can go on, or transfers are on their way. */
  get busy(): boolean {
    return this.runnable.length > 0 || this.#transfers > 0;
  }

  protected override operate(operation: Operation, task: Task): boolean {
    if (operation instanceof FileTransfer && !operation.over && this.#put(operation, task)) return false;
    return super.operate(operation, task);
  }

  protected override idle(seen: number): void {
    this.#ring.reap();
    if (this.runnable.length > 0) this.#ring.submit();
    else super.idle(seen);
    this.#ring.reap();
  }

  /** @returns false when it cannot be handed over. */
  #put(transfer: FileTransfer, task: Task): boolean {
    const ended = (result: number): void => this.#ended(transfer, task, result);
    if (!this.#ring.transfer(transfer, ended)) return false;
    this.#transfers += 1;
    return true;
  }

  #ended(transfer: FileTransfer, task: Task, result: number): void {
    this.#transfers -= 1;
    try {
      if (result < 0) transfer.fail(systemError(-result, "io_uring"));
      else transfer.advance(result);
    } catch (error) {
      task.failed = true;
      task.resumeWith = error;
    }
    if (task.failed || transfer.over || !this.#put(transfer, task)) this.makeRunnable(task);
  }
}
