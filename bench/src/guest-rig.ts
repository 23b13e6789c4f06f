/** A virtual machine without the machine: one virtio-blk device, a thread for each of its queues, a thread for each guest. */
import { setTimeout as pause } from "node:timers/promises";
import type { Co } from "@spindle/base";
import type { DiskPortHandle } from "@spindle/block";
import { MAX_THREADS, ThreadTable, type ThreadTableHandle } from "@spindle/shared-memory";
import { createVirtioBlk, type GuestHandle, MmioTransport, planGuest, startGuest } from "@spindle/virtio-blk";
import { LatencyHistogram } from "@spindle/workload";
import {
  allocateLatencies,
  type GuestOperation,
  type GuestWork,
  PHASES,
  type Phase,
  PhaseControl,
  type QueueWork,
  REQUEST_BYTES,
} from "./guest-io-protocol.ts";
import { startWorker, type WorkerThread } from "./worker-thread.ts";

/** So many, and everything on the way has been compiled once. */
const FIRST_ANSWERS = 64;

export interface GuestRigOptions {
  readonly threads: ThreadTableHandle;
  /** Opens a way to the disk for one more thread. */
  readonly openPort: () => DiskPortHandle;
  readonly run: <T>(co: Co<T>) => Promise<T>;
  readonly guests: number;
  readonly operation: GuestOperation;
  readonly depth: number;
  /** Bytes of the disk in which the guests work, from its start on; each has an even share. */
  readonly workingSet: number;
  readonly diskLength: number;
}

/** What the guests found in one phase. */
export interface PhaseFigures {
  readonly requestsPerSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

export class GuestRig {
  readonly #control: PhaseControl;
  readonly #latencies: readonly (readonly SharedArrayBuffer[])[];
  readonly #threads: ThreadTable;
  readonly #queueControl: PhaseControl = new PhaseControl();
  readonly #guests: WorkerThread[] = [];
  readonly #queues: WorkerThread[] = [];

  static async start(options: GuestRigOptions): Promise<GuestRig> {
    const { threads, guests, diskLength, run } = options;
    const plan = planGuest({ queueCount: guests, queueSize: 64, dataBytes: REQUEST_BYTES });
    const memory = new SharedArrayBuffer(plan.length);
    const device = createVirtioBlk({
      memory: { regions: [{ guestBase: 0, memory, byteOffset: 0, length: plan.length }] },
      threads,
      diskLength,
      queueCount: guests,
    });
    const guest = await run(startGuest(new MmioTransport(device), device, plan.queues));
    const rig = new GuestRig(options, guest);
    await rig.#underWay();
    return rig;
  }

  private constructor(options: GuestRigOptions, guest: GuestHandle) {
    const { guests, workingSet, operation, depth } = options;
    this.#threads = new ThreadTable(options.threads);
    this.#control = new PhaseControl();
    this.#latencies = Array.from({ length: guests }, allocateLatencies);
    const length = workingSet / guests;
    this.#latencies.forEach((latencies, queue) => {
      const port = options.openPort();
      const server: QueueWork = { device: guest.device, queue, port, control: this.#queueControl.memory };
      const area = { start: queue * length, length };
      const client: GuestWork = { guest, queue, operation, depth, ...area, latencies, control: this.#control.memory };
      this.#queues.push(startWorker("./guest-io-queue-worker.ts", server));
      this.#guests.push(startWorker("./guest-io-guest-worker.ts", client));
    });
  }

  /** Waits until every guest has had its first answers: threads take their time to start. */
  async #underWay(): Promise<void> {
    const counts = this.#latencies.map((latencies) => new LatencyHistogram(latencies[0] as SharedArrayBuffer));
    while (counts.some(({ count }) => count < FIRST_ANSWERS)) await Promise.race([pause(10), this.#threadEnded()]);
  }

  /** Rejects with the error of a thread that failed. */
  #threadEnded(): Promise<void> {
    return Promise.race([...this.#guests, ...this.#queues].map(({ ended }) => ended));
  }

  /** Lets the guests go on while `during` lasts, and counts what ended meanwhile. */
  async measure(phase: Phase, during: () => Promise<unknown>): Promise<PhaseFigures> {
    this.#control.enter(phase);
    const begin = performance.now();
    await Promise.race([during(), this.#threadEnded()]);
    const seconds = (performance.now() - begin) / 1_000;
    this.#control.enter("warm-up");
    const latency = this.#merged(phase);
    const { count } = latency;
    return { requestsPerSecond: count / seconds, p50Ms: latency.percentile(0.5), p99Ms: latency.percentile(0.99) };
  }

  /** Ends all threads: the queues' after the guests', whose last requests they still have to serve. */
  async stop(): Promise<void> {
    this.#control.stop();
    await Promise.all(this.#guests.map(({ ended }) => ended));
    this.#queueControl.stop();
    for (let thread = 0; thread < MAX_THREADS; thread++) this.#threads.ring(thread);
    await Promise.all(this.#queues.map(({ ended }) => ended));
  }

  #merged(phase: Phase): LatencyHistogram {
    const sum = new LatencyHistogram(LatencyHistogram.allocate());
    for (const latencies of this.#latencies)
      sum.merge(new LatencyHistogram(latencies[PHASES.indexOf(phase)] as SharedArrayBuffer));
    return sum;
  }
}
