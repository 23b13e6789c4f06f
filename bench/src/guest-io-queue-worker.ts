/** A queue worker's thread: serves one virtqueue of the device through a disk port. */
import { workerData } from "node:worker_threads";
import { SyncRunner } from "@spindle/base";
import { DiskPort } from "@spindle/block";
import { descriptorIo } from "@spindle/host-node";
import { ThreadTable } from "@spindle/shared-memory";
import { serveQueues } from "@spindle/virtio-blk";
import { PhaseControl, type QueueWork } from "./guest-io-protocol.ts";

const work = workerData as QueueWork;
const thread = new ThreadTable(work.device.threads).attach();
const control = new PhaseControl(work.control);
serveQueues({
  device: work.device,
  queues: [work.queue],
  disk: new DiskPort(work.port, thread, descriptorIo),
  thread,
  runner: new SyncRunner(performance, thread),
  stop: () => control.stopped,
});
thread.detach();
