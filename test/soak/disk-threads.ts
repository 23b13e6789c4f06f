/** The threads that use one disk through ports, as its owner sees them: starts, stops and kills them. */
import { Worker } from "node:worker_threads";
import { SECTOR_SIZE } from "@spindle/base";
import { type BlockNode, PortServer } from "@spindle/block";
import { ThreadTable } from "@spindle/shared-memory";
import { SectorStates } from "@spindle/workload";
import type { Session } from "spindle";
import type { DiskThreadData, DiskThreadStarted, GuestReport } from "./disk-thread-data.ts";

export interface DiskThreadsOptions {
  readonly session: Session;
  readonly node: BlockNode;
  /** A file with what the disk held at first. */
  readonly base: string;
  /** All guests that share the sectors, those included that are no threads. */
  readonly guests: number;
  readonly seed: number;
  readonly states: SectorStates;
}

interface DiskThread {
  readonly worker: Worker;
  readonly threadIndex: number;
  /** The report of a guest that came to its end. */
  readonly exited: Promise<GuestReport | undefined>;
}

export class DiskThreads {
  readonly #options: DiskThreadsOptions;
  readonly #server: PortServer;
  readonly #stop = new Int32Array(new SharedArrayBuffer(4));
  readonly #guests: DiskThread[] = [];
  readonly #readers: DiskThread[] = [];
  #failure: unknown;

  static statesFor(node: BlockNode): SectorStates {
    return new SectorStates(SectorStates.allocate(node.length / SECTOR_SIZE));
  }

  constructor(options: DiskThreadsOptions) {
    this.#options = options;
    const { session, node } = options;
    this.#server = new PortServer(node, session.thread, session.runner);
  }

  async startGuest(guest: number): Promise<void> {
    this.#guests.push(await this.#start(new URL("./guest-thread.ts", import.meta.url), guest));
  }

  async startReader(seed: number): Promise<void> {
    this.#readers.push(await this.#start(new URL("./reader-thread.ts", import.meta.url), 0, seed));
  }

  /** Kills a reader wherever it is, and frees what it held. @returns how many requests of it were in flight. */
  async killReader(): Promise<number> {
    const reader = this.#readers.pop();
    if (reader === undefined) return 0;
    await reader.worker.terminate();
    await reader.exited;
    const { session, node } = this.#options;
    const freed = node.tracker?.recover(reader.threadIndex) ?? 0;
    if (freed < 0) throw new Error("the tracker could not be recovered");
    new ThreadTable(session.threads).free(reader.threadIndex);
    return freed;
  }

  /** Ends everybody. @throws what any of the threads threw. */
  async stop(): Promise<GuestReport[]> {
    Atomics.store(this.#stop, 0, 1);
    const { session } = this.#options;
    const table = new ThreadTable(session.threads);
    for (const { threadIndex } of [...this.#guests, ...this.#readers]) table.ring(threadIndex);
    await Promise.all(this.#readers.map(({ exited }) => exited));
    const reports = await Promise.all(this.#guests.map(({ exited }) => exited));
    if (this.#failure !== undefined) throw this.#failure;
    await session.run(this.#server.close());
    return reports.map((report, guest) => {
      if (report === undefined) throw new Error(`guest ${guest} has ended without a report`);
      return report;
    });
  }

  async #start(file: URL, guest: number, seed: number = this.#options.seed): Promise<DiskThread> {
    const { session, base, guests, states } = this.#options;
    const workerData: DiskThreadData = {
      threads: session.threads,
      port: this.#server.open(),
      guest,
      guests,
      seed,
      base,
      states: states.memory,
      stop: this.#stop.buffer as SharedArrayBuffer,
    };
    return this.#watch(new Worker(file, { workerData }));
  }

  /** Resolves when the thread has taken its place in the table. */
  #watch(worker: Worker): Promise<DiskThread> {
    return new Promise((resolve, reject) => {
      const exited = new Promise<GuestReport | undefined>((ended) => {
        let report: GuestReport | undefined;
        worker.on("message", (message: DiskThreadStarted | GuestReport) => {
          if ("threadIndex" in message) resolve({ worker, threadIndex: message.threadIndex, exited });
          else report = message;
        });
        worker.on("error", (error) => {
          this.#failure ??= error;
          reject(error);
        });
        worker.on("exit", () => ended(report));
      });
    });
  }
}
