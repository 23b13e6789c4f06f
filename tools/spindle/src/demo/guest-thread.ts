/**
 * The thread of one guest of the demo: the driver's side of one virtqueue, and the workload on it. It compares what it
 * reads of sectors that nobody has written with the base image, which it opens for itself.
 */
import { parentPort, workerData } from "node:worker_threads";
import { type Co, SyncRunner } from "@spindle/base";
import { type BlockNode, Graph, IoVector } from "@spindle/block";
import { HostBackingPolicy, nodeEnvironment } from "@spindle/host-node";
import { RangeLock, ThreadTable } from "@spindle/shared-memory";
import { type GuestHandle, GuestQueue } from "@spindle/virtio-blk";
import { type GuestDisk, GuestWorkload, REQUEST_BYTES_MAX, SectorStates } from "@spindle/workload";
import { driverRegistry } from "spindle";
import { GuestStatistics, type GuestStatisticsHandle } from "./guest-statistics.ts";

/** The base image, by name: the descriptors of the chain that is streamed are closed when the stream has ended. */
export interface BaseImage {
  readonly filename: string;
  readonly format: string;
  readonly allowBacking: readonly string[];
}

export interface GuestThreadData {
  readonly guest: GuestHandle;
  readonly queue: number;
  readonly guests: number;
  readonly seed: number;
  readonly queueDepth: number;
  readonly length: number;
  readonly base: BaseImage;
  readonly states: SharedArrayBuffer;
  readonly statistics: GuestStatisticsHandle;
}

/** What the thread posts when it has ended. */
export interface GuestThreadReport {
  /** The first few wrong sectors, in words. */
  readonly wrong: readonly string[];
}

const WRONG_REPORTS_MAX = 5;

const data = workerData as GuestThreadData;
const thread = new ThreadTable(data.guest.device.threads).attach();
const environment = nodeEnvironment();
const runner = new SyncRunner(environment.clock, thread);
const statistics = new GuestStatistics(data.statistics);
const wrong: string[] = [];

const graph = new Graph({
  environment,
  registry: driverRegistry(),
  backingPolicy: new HostBackingPolicy({ allowedFolders: data.base.allowBacking }),
  createTracker: () => new RangeLock(RangeLock.create(), thread),
});
const base = runner.run(graph.openImage(data.base.filename, { format: data.base.format, readOnly: true }));
try {
  runner.run(workload(base).run());
} finally {
  runner.run(graph.close());
  thread.detach();
}
parentPort?.postMessage({ wrong } satisfies GuestThreadReport);

function workload(baseNode: BlockNode): GuestWorkload {
  const { queue, guests, seed, queueDepth } = data;
  return new GuestWorkload(guestDisk(), {
    guest: queue,
    guests,
    seed,
    queueDepth,
    states: new SectorStates(data.states),
    clock: environment.clock,
    readBase: (offset, buffer) => readBase(baseNode, offset, buffer),
    observer: {
      completed: (_operation, durationMs) => statistics.completed(durationMs),
      verified: (sectors) => statistics.verified(sectors),
      wrong: (report) => {
        statistics.wrong();
        if (wrong.length < WRONG_REPORTS_MAX) wrong.push(`guest ${queue}: ${report}`);
      },
    },
    stop: () => statistics.stopped,
  });
}

function guestDisk(): GuestDisk {
  const driver = new GuestQueue(data.guest, data.queue, thread);
  const buffers = Array.from({ length: data.queueDepth }, () => new Uint8Array(REQUEST_BYTES_MAX));
  return {
    length: data.length,
    buffer: (slot) => buffers[slot] as Uint8Array,
    read: (offset, buffer) => driver.read(offset, buffer),
    write: (offset, buffer) => driver.write(offset, buffer),
    writeZeroes: (offset, length) => driver.writeZeroes(offset, length, true),
    discard: (offset, length) => driver.discard(offset, length),
    flush: () => driver.flush(),
  };
}

/** The base may be shorter than the disk: zeros follow it. */
function* readBase(node: BlockNode, offset: number, buffer: Uint8Array): Co<void> {
  const present = Math.max(0, Math.min(buffer.length, node.length - offset));
  if (present > 0) yield* node.read(offset, IoVector.of(buffer.subarray(0, present)));
  buffer.fill(0, present);
}
