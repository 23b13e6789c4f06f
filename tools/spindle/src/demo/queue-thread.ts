/** The thread of one queue worker of the demo: serves one virtqueue of the device through a disk port. */
import { workerData } from "node:worker_threads";
import { SyncRunner } from "@spindle/base";
import { DiskPort, type DiskPortHandle } from "@spindle/block";
import { descriptorIo, nodeEnvironment } from "@spindle/host-node";
import { ThreadTable } from "@spindle/shared-memory";
import { serveQueues, type VirtioBlkHandle } from "@spindle/virtio-blk";

export interface QueueThreadData {
  readonly device: VirtioBlkHandle;
  readonly queue: number;
  readonly port: DiskPortHandle;
  /** One word: 1 when the thread is to stop. */
  readonly stop: SharedArrayBuffer;
}

const data = workerData as QueueThreadData;
const thread = new ThreadTable(data.device.threads).attach();
const { clock } = nodeEnvironment();
const runner = new SyncRunner(clock, thread);
const stop = new Int32Array(data.stop);
const disk = new DiskPort(data.port, thread, descriptorIo, clock);

serveQueues({
  device: data.device,
  queues: [data.queue],
  disk,
  thread,
  runner,
  stop: () => Atomics.load(stop, 0) === 1,
});
thread.detach();
