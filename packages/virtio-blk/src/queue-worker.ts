/**
 * Serves virtqueues of a device on one thread: the loop around `ServedQueue`. Each queue is served by one thread at a
 * time; a thread may serve several. On one thread with the guest, or in a simulation, `QueueServer.serve` is one more
 * coroutine of the runner; a worker thread calls `serveQueues`.
 */
import { BlockError, type Co, type Condition, type Runner, type SyncRunner } from "@spindle/base";
import type { VirtioBlkHandle } from "./create-device.ts";
import { VirtioBlkDevice } from "./device.ts";
import { DeviceState } from "./device-state.ts";
import type { Disk } from "./disk.ts";
import { GuestMemory } from "./guest-memory.ts";
import type { openVirtqueue } from "./open-virtqueue.ts";
import type { QueueState } from "./queue-state.ts";
import { type DriverNotices, ServedQueue } from "./served-queue.ts";

export interface QueueServerOptions {
  readonly device: VirtioBlkHandle;
  /** Indices of the queues to serve. */
  readonly queues: readonly number[];
  readonly disk: Disk;
  /** The thread that serves: its doorbell is rung by kicks. */
  readonly thread: { readonly index: number };
  /** The runner that runs `serve`; requests that have to wait run beside it. */
  readonly runner: Pick<Runner, "spawn">;
  /** How the driver hears of the queues; through the device's state when left out. */
  readonly notices?: DriverNotices;
  /** Opens the rings of a queue when it is set up; `openVirtqueue` when left out. */
  readonly openRings?: typeof openVirtqueue | undefined;
  /**
   * Called when there is nothing to do, before the driver is asked for kicks: may look for work for a while, so that a
   * busy driver need not kick. Returns when there is some, or when it has looked long enough.
   */
  readonly busyPoll?: (hasWork: () => boolean) => void;
}

export class QueueServer {
  readonly #queues: readonly ServedQueue[];
  readonly #busyPoll: ((hasWork: () => boolean) => void) | undefined;
  #failure: { readonly error: unknown } | undefined;

  /** @throws {BlockError} EBUSY when another thread serves one of the queues, EINVAL when there is no such queue. */
  constructor(options: QueueServerOptions) {
    const state = new DeviceState(options.device);
    const memory = new GuestMemory(options.device.memory);
    const device = new VirtioBlkDevice(options.disk, options.device);
    this.#busyPoll = options.busyPoll;
    const claimed = claimQueues(state, options.queues, options.thread.index);
    this.#queues = claimed.map(
      (queue) =>
        new ServedQueue({
          state,
          queue,
          memory,
          device,
          runner: options.runner,
          notices: options.notices,
          openRings: options.openRings,
          failed: (error) => {
            this.#failure ??= { error };
          },
        }),
    );
  }

  /**
   * Serves until `stop()` holds, then lets the requests in flight end and gives the queues back. `stop` is looked at
   * when the thread's doorbell rings. Runs once.
   */
  *serve(stop: () => boolean): Co<void> {
    try {
      for (;;) {
        const stopping = stop();
        for (const queue of this.#queues) queue.poll(!stopping);
        if (this.#failure !== undefined) throw this.#failure.error;
        if (stopping && this.#idle()) return;
        if (!stopping) this.#busyPoll?.(() => this.#queues.some((queue) => queue.hasWork(true)) || stop());
        for (const queue of this.#queues) queue.requestKicks();
        yield this.#somethingToDo(stopping, stop);
      }
    } finally {
      for (const queue of this.#queues) queue.release();
    }
  }

  #idle(): boolean {
    return this.#queues.every((queue) => queue.idle);
  }

  #somethingToDo(stopping: boolean, stop: () => boolean): Condition {
    let looked = false;
    return {
      kind: "condition",
      ready: () => {
        if (!looked) {
          // The runner's first look parks this coroutine, so that a guest which never stops cannot keep the others
          // of this thread, the requests in flight among them, from their turn.
          looked = true;
          return false;
        }
        if (stopping) return this.#idle() || this.#queues.some((queue) => queue.hasWork(false));
        return this.#queues.some((queue) => queue.hasWork(true)) || stop();
      },
    };
  }
}

/** Serves queues on this thread and returns when `stop()` holds and nothing is in flight. Blocks the thread. */
export function serveQueues(
  options: QueueServerOptions & { readonly runner: SyncRunner; readonly stop: () => boolean },
): void {
  options.runner.run(new QueueServer(options).serve(options.stop));
}

/** Claims all of the queues or none. */
function claimQueues(state: DeviceState, indices: readonly number[], thread: number): QueueState[] {
  const claimed: QueueState[] = [];
  try {
    for (const index of indices) {
      const queue = state.queues[index];
      if (queue === undefined) throw new BlockError("EINVAL", `the device has no virtqueue ${index}`);
      queue.claim(thread);
      claimed.push(queue);
    }
  } catch (error) {
    for (const queue of claimed) queue.release(queue.position);
    throw error;
  }
  return claimed;
}
