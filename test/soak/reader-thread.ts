/** A thread that only reads, without an end: it is there to be killed in the middle of requests. */
import { parentPort, workerData } from "node:worker_threads";
import { type Co, join, SeededRandom, SyncRunner } from "@spindle/base";
import { DiskPort, IoVector } from "@spindle/block";
import { descriptorIo, nodeEnvironment } from "@spindle/host-node";
import { ThreadTable } from "@spindle/shared-memory";
import type { DiskThreadData, DiskThreadStarted } from "./disk-thread-data.ts";

const READ_BYTES_MAX = 256 * 1024;
const QUEUE_DEPTH = 8;

const data = workerData as DiskThreadData;
const thread = new ThreadTable(data.threads).attach();
parentPort?.postMessage({ threadIndex: thread.index } satisfies DiskThreadStarted);
const { clock } = nodeEnvironment();
const port = new DiskPort(data.port, thread, descriptorIo, clock);
const random = new SeededRandom(data.seed);
const stop = new Int32Array(data.stop);

new SyncRunner(clock, thread).run(join(Array.from({ length: QUEUE_DEPTH }, reads)));
thread.detach();

function* reads(): Co<void> {
  const buffer = new Uint8Array(READ_BYTES_MAX);
  while (Atomics.load(stop, 0) === 0) {
    const offset = random.below(port.length);
    const length = 1 + random.below(Math.min(READ_BYTES_MAX, port.length - offset));
    yield* port.read(offset, IoVector.of(buffer.subarray(0, length)));
  }
}
