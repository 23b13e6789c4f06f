/** The thread of one guest: random requests through a disk port, with every sector stamped and verified. */
import { openSync, readSync } from "node:fs";
import { parentPort, workerData } from "node:worker_threads";
import { type Co, SyncRunner } from "@spindle/base";
import { type DescriptorIo, DiskPort, IoVector } from "@spindle/block";
import { descriptorIo, nodeEnvironment } from "@spindle/host-node";
import { ThreadTable } from "@spindle/shared-memory";
import { type GuestDisk, GuestWorkload, REQUEST_BYTES_MAX, SectorStates } from "@spindle/workload";
import type { DiskThreadData, DiskThreadStarted, GuestReport } from "./disk-thread-data.ts";

const QUEUE_DEPTH = 8;
const WRONG_REPORTS_MAX = 5;

const data = workerData as DiskThreadData;
const thread = new ThreadTable(data.threads).attach();
parentPort?.postMessage({ threadIndex: thread.index } satisfies DiskThreadStarted);
const { clock } = nodeEnvironment();
const runner = new SyncRunner(clock, thread);
const stop = new Int32Array(data.stop);
const counts = { requests: 0, sectorsVerified: 0, sectorsWrong: 0, direct: 0 };
const wrong: string[] = [];

const counted: DescriptorIo = {
  read(descriptor, offset, vector) {
    counts.direct += 1;
    return descriptorIo.read(descriptor, offset, vector);
  },
  write(descriptor, offset, vector) {
    counts.direct += 1;
    return descriptorIo.write(descriptor, offset, vector);
  },
};
const port = new DiskPort(data.port, thread, counted, clock);
const base = openSync(data.base, "r");
runner.run(workload().run());
thread.detach();
parentPort?.postMessage({ ...counts, wrong } satisfies GuestReport);

function workload(): GuestWorkload {
  const { guest, guests, seed, states } = data;
  return new GuestWorkload(disk(), {
    guest,
    guests,
    seed,
    queueDepth: QUEUE_DEPTH,
    states: new SectorStates(states),
    clock,
    *readBase(offset, buffer): Co<void> {
      buffer.fill(0, readSync(base, buffer, 0, buffer.length, offset));
    },
    observer: {
      completed: () => {
        counts.requests += 1;
      },
      verified: (sectors) => {
        counts.sectorsVerified += sectors;
      },
      wrong: (report) => {
        counts.sectorsWrong += 1;
        if (wrong.length < WRONG_REPORTS_MAX) wrong.push(`guest ${guest}: ${report}`);
      },
    },
    stop: () => Atomics.load(stop, 0) === 1,
  });
}

function disk(): GuestDisk {
  const buffers = Array.from({ length: QUEUE_DEPTH }, () => new Uint8Array(REQUEST_BYTES_MAX));
  return {
    length: port.length,
    buffer: (slot) => buffers[slot] as Uint8Array,
    read: (offset, buffer) => port.read(offset, IoVector.of(buffer)),
    write: (offset, buffer) => port.write(offset, IoVector.of(buffer)),
    writeZeroes: (offset, length) => port.writeZeroes(offset, length, { mayUnmap: true }),
    discard: (offset, length) => port.discard(offset, length),
    flush: () => port.flush(),
  };
}
