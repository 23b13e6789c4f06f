/**
 * The thread of one virtqueue: owns the ring and the file I/O from end to end. Reads and overwrites go straight between
 * guest memory and the image file; what changes metadata goes to the owner of the graph through the disk port.
 */
import { type MessagePort, parentPort, workerData } from "node:worker_threads";
import { type Clock, SyncRunner } from "@spindle/base";
import { DiskPort, type DiskPortHandle } from "@spindle/block";
import { blockingDescriptorIo, sharingCalls } from "@spindle/host-node";
import { ThreadTable } from "@spindle/shared-memory";
import {
  type GuestMemoryHandle,
  openVirtqueue,
  SplitQueue,
  serveQueues,
  type VirtioBlkHandle,
} from "@spindle/virtio-blk";
import { AdaptivePoll } from "./adaptive-poll.ts";
import { InflightLog } from "./inflight-log.ts";
import { LoggedQueue } from "./logged-queue.ts";
import { PollWaiter } from "./poll-waiter.ts";
import { QueueControl, type QueueControlHandle, type ServeOrder } from "./queue-control.ts";

export interface QueueThreadData {
  readonly device: VirtioBlkHandle;
  readonly queue: number;
  readonly port: DiskPortHandle;
  readonly control: QueueControlHandle;
  readonly orders: MessagePort;
  /** Microseconds; see `AdaptivePoll`. */
  readonly pollUs: number;
}

const { device, queue, port, control: handle, orders, pollUs } = workerData as QueueThreadData;
const calls = sharingCalls();
const clock: Clock = performance;
const thread = new ThreadTable(device.threads, (descriptor) => calls.signal(descriptor)).attach();
const poll = new AdaptivePoll(pollUs);
const waiter = new PollWaiter(thread, handle.event, (durationMs) => poll.slept(durationMs));
const runner = new SyncRunner(clock, waiter);
const disk = new DiskPort(port, thread, blockingDescriptorIo, clock);
const control = new QueueControl(handle, orders);

for (;;) {
  runner.runUntil(() => control.awaited);
  const order = control.take();
  if (order !== undefined) {
    serve(order);
    control.finish();
  }
  if (control.ending) break;
}
thread.detach();

function serve({ memory, kick, call, error, inflight }: ServeOrder): void {
  waiter.descriptors = [kick];
  serveQueues({
    device: { ...device, memory: viewed(memory) },
    queues: [queue],
    disk,
    thread,
    runner,
    stop: () => control.stopping,
    openRings(...opened) {
      const ring = openVirtqueue(...opened);
      if (inflight === undefined || !(ring instanceof SplitQueue)) return ring;
      return new LoggedQueue(ring, new InflightLog(inflight.place), inflight.left);
    },
    notices: {
      used: () => calls.signal(call),
      broken(fault) {
        calls.signal(error);
        parentPort?.postMessage(`virtqueue ${queue} is broken until the driver resets the device: ${fault}`);
      },
    },
    busyPoll(hasWork) {
      const seen = thread.snapshot();
      poll.look(() => hasWork() || thread.snapshot() !== seen);
    },
  });
  waiter.descriptors = [];
}

function viewed(memory: ServeOrder["memory"]): GuestMemoryHandle {
  return {
    regions: memory.map(({ guestBase, address, length }) => ({
      guestBase,
      memory: calls.view(address, length),
      byteOffset: 0,
      length,
    })),
  };
}
