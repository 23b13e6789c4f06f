/**
 * The demo's machine: one virtio-blk device over a disk, a queue worker and a guest for each of its virtqueues, each on a
 * thread of its own.
 */

import { createRequire } from "node:module";
import { setTimeout as delay } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import { SECTOR_SIZE } from "@spindle/base";
import { type BlockNode, PortServer } from "@spindle/block";
import { MAX_THREADS, ThreadTable } from "@spindle/shared-memory";
import { createVirtioBlk, GuestMemory, MmioTransport, planGuest, startGuest } from "@spindle/virtio-blk";
import { REQUEST_BYTES_MAX, SectorStates } from "@spindle/workload";
import type { Session } from "spindle";
import { GuestStatistics } from "./guest-statistics.ts";
import type { BaseImage, GuestThreadData, GuestThreadReport } from "./guest-thread.ts";
import type { QueueThreadData } from "./queue-thread.ts";

const QUEUE_DEPTH = 16;

/** A guest that has verified so many sectors is under way. */
const WARM_UP_SECTORS = 2_000;
const WARM_UP_POLL_MS = 20;

export interface MachineOptions {
  readonly session: Session;
  /** The disk that the guests use. */
  readonly node: BlockNode;
  /** What the disk held before the guests came. */
  readonly base: BaseImage;
  readonly guests: number;
  readonly packed: boolean;
  readonly seed: number;
}

export class DemoMachine {
  readonly statistics: GuestStatistics = new GuestStatistics(GuestStatistics.allocate());
  readonly states: SectorStates;
  readonly #session: Session;
  readonly #server: PortServer;
  readonly #stop = new Int32Array(new SharedArrayBuffer(4));
  #queueThreads: Promise<void>[] = [];
  #guestThreads: Promise<readonly string[]>[] = [];

  private constructor(options: MachineOptions) {
    const { session, node } = options;
    this.#session = session;
    this.states = new SectorStates(SectorStates.allocate(node.length / SECTOR_SIZE));
    this.#server = new PortServer(node, session.thread, session.runner);
  }

  /** Builds the machine and lets the guests begin. */
  static async start(options: MachineOptions): Promise<DemoMachine> {
    const machine = new DemoMachine(options);
    const { session, node, base, guests, packed, seed } = options;
    const plan = planGuest({ queueCount: guests, queueSize: 64, dataBytes: REQUEST_BYTES_MAX });
    const device = createVirtioBlk({
      memory: GuestMemory.create(plan.length),
      threads: session.threads,
      diskLength: node.length,
      queueCount: guests,
      packed,
      serial: "spindle-demo",
      discardGranularity: node.trackingUnit,
    });
    const guest = await session.run(startGuest(new MmioTransport(device), device, plan.queues));
    const stop = machine.#stop.buffer as SharedArrayBuffer;
    for (let queue = 0; queue < guests; queue++) {
      const data: QueueThreadData = { device, queue, port: machine.#server.open(), stop };
      machine.#queueThreads.push(startThread<void>("queue-thread", data));
    }
    for (let queue = 0; queue < guests; queue++) {
      const data: GuestThreadData = {
        guest,
        queue,
        guests,
        seed,
        queueDepth: QUEUE_DEPTH,
        length: node.length,
        base,
        states: machine.states.memory,
        statistics: machine.statistics.handle,
      };
      machine.#guestThreads.push(
        startThread<GuestThreadReport>("guest-thread", data).then((report) => report?.wrong ?? []),
      );
    }
    return machine;
  }

  /** Waits until the guests are at work: starting threads takes a while. */
  async warmUp(): Promise<void> {
    const enough = this.#guestThreads.length * WARM_UP_SECTORS;
    while (this.statistics.sectorsVerified < enough) await Promise.race([delay(WARM_UP_POLL_MS), this.failure]);
  }

  /** Rejects when a guest or a queue worker fails; never resolves. */
  get failure(): Promise<never> {
    const threads = [...this.#guestThreads, ...this.#queueThreads];
    return new Promise((_, reject) => {
      for (const thread of threads) (thread as Promise<unknown>).catch(reject);
    });
  }

  /** Ends the guests, then the device. Returns what the guests found wrong, in words. */
  async stop(): Promise<string[]> {
    this.statistics.stop();
    const wrong = (await Promise.all(this.#guestThreads)).flat();
    Atomics.store(this.#stop, 0, 1);
    const table = new ThreadTable(this.#session.threads);
    for (let index = 0; index < MAX_THREADS; index++) table.ring(index);
    await Promise.all(this.#queueThreads);
    await this.#session.run(this.#server.close());
    return wrong;
  }
}

/** Settles with what the thread posts, when it has ended. */
function startThread<T>(name: "guest-thread" | "queue-thread", workerData: unknown): Promise<T> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(createRequire(import.meta.url).resolve(`@spindle/tools/demo/${name}`), { workerData });
    let posted: T;
    worker.on("message", (message: T) => {
      posted = message;
    });
    worker.on("error", reject);
    worker.on("exit", () => resolve(posted));
  });
}
