/**
 * The thread of one virtqueue: owns the ring and the file I/O from end to end. Reads and overwrites go straight between
 * guest memory and the image file; what changes metadata goes to the owner of the graph through the disk port.
 */
import { type MessagePort, parentPort, workerData } from "node:worker_threads";
import { type Clock, SyncRunner } from "@spindle/base";
import { type DescriptorIo, DiskPort, type DiskPortHandle } from "@spindle/block";
import {
  blockingDescriptorIo,
  cachedDescriptorIo,
  descriptorIo,
  IoRing,
  RingRunner,
  sharingCalls,
} from "@spindle/host-node";
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
import { RingWaiter } from "./ring-waiter.ts";

export interface QueueThreadData {
  readonly device: VirtioBlkHandle;
  readonly queue: number;
  readonly port: DiskPortHandle;
  readonly control: QueueControlHandle;
  readonly orders: MessagePort;
  /** Microseconds; see `AdaptivePoll`. */
  readonly pollUs: number;
}

/** Requests of one queue that are submitted at once at most. */
const RING_ENTRIES = 256;

const { device, queue, port, control: handle, orders, pollUs } = workerData as QueueThreadData;
const calls = sharingCalls();
const clock: Clock = performance;
const thread = new ThreadTable(device.threads, (descriptor) => calls.signal(descriptor)).attach();
const poll = new AdaptivePoll(pollUs);
const slept = (durationMs: number): void => poll.slept(durationMs);
const ring = IoRing.open(RING_ENTRIES);
const waiter =
  ring === null ? new PollWaiter(thread, handle.event, slept) : new RingWaiter(thread, handle.event, ring, slept);
const ringRunner = ring === null ? undefined : new RingRunner(clock, waiter, ring);
const runner = ringRunner ?? new SyncRunner(clock, waiter);
const disk = new DiskPort(port, thread, descriptorIoFor(port), clock);
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
ring?.close();

/**
 * Past the page cache everything waits for the device: all of it goes into the ring. What the cache has is copied in less
 * time than a turn through the ring takes.
 */
function descriptorIoFor({ direct }: DiskPortHandle): DescriptorIo {
  if (ring === null) return blockingDescriptorIo;
  return direct ? descriptorIo : cachedDescriptorIo;
}

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
      // A device takes longer than it pays to look.
      if (ringRunner?.busy === true) return;
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
