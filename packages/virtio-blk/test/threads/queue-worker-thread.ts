/** A thread that serves virtqueues from a disk in shared memory until it is told to stop. */
import { parentPort, workerData } from "node:worker_threads";
import { SyncRunner } from "@spindle/base";
import { ThreadTable } from "@spindle/shared-memory";
import type { VirtioBlkHandle } from "../../src/create-device.ts";
import { serveQueues } from "../../src/queue-worker.ts";
import { SpinningWaiter } from "../../src/spinning-waiter.ts";
import { MemoryDisk } from "../memory-disk.ts";

export interface QueueWorkerData {
  readonly device: VirtioBlkHandle;
  readonly queues: readonly number[];
  readonly disk: SharedArrayBuffer;
  /** One 32-bit word: not 0 when the thread is to stop. */
  readonly stop: SharedArrayBuffer;
  /** Looks at the doorbell before sleeping. */
  readonly spin: number;
  /** Turns of a loop that each read takes. */
  readonly delay: number;
}

const data = workerData as QueueWorkerData;
const thread = new ThreadTable(data.device.threads).attach();
const stop = new Int32Array(data.stop);
const disk = new MemoryDisk(data.disk);
const read = disk.read.bind(disk);
disk.read = function* (offset, vector) {
  for (let turn = 0; turn < data.delay; turn++) Atomics.load(stop, 0);
  yield* read(offset, vector);
};
parentPort?.postMessage({ thread: thread.index });
serveQueues({
  device: data.device,
  queues: data.queues,
  disk,
  thread,
  runner: new SyncRunner({ now: () => performance.now() }, new SpinningWaiter(thread, data.spin)),
  stop: () => Atomics.load(stop, 0) !== 0,
});
thread.detach();
parentPort?.postMessage({ served: true });
