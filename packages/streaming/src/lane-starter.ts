/** Starts the workers of one stream job, replaces those that die, and ends them with the job. */
import { MessageChannel } from "node:worker_threads";
import type { Co } from "@spindle/base";
import type { Thread } from "@spindle/shared-memory";
import { type Remote, wrap } from "comlink";
import nodeEndpoint from "comlink/dist/esm/node-adapter.mjs";
import type { Piscina } from "piscina";
import { CopyChannel } from "./copy-channel.ts";
import type { CopyControl, CopyWorkerOptions } from "./copy-control.ts";
import { CopyLane } from "./copy-lane.ts";
import type { LaneSource, PoolCopier } from "./pool-copier.ts";
import { settled } from "./settled.ts";

/** Memory for the buffers of one worker, in bytes. */
const BUFFER_BYTES_MAX = 32 * 1024 * 1024;
const DEPTH_MAX = 64;

/** Workers that one job replaces at most: a job whose workers keep dying fails. */
const RESTARTS_MAX = 16;

export interface LaneStarterOptions {
  readonly piscina: Piscina;
  readonly owner: Thread;
  readonly depth: number | undefined;
  readonly worker: Omit<CopyWorkerOptions, "channel" | "ownerThread">;
  /** Told 1 when a thread is taken and -1 when it is given back. */
  readonly threadUsed: (change: 1 | -1) => void;
}

export class LaneStarter implements LaneSource {
  readonly #options: LaneStarterOptions;
  /** The tasks of workers that have not ended. */
  readonly #tasks: Set<Promise<void>> = new Set();
  #copier: PoolCopier | undefined;
  #dead: CopyLane[] = [];
  #starting = 0;
  #restarts = 0;
  #closing = false;
  #failure: string | undefined;

  constructor(options: LaneStarterOptions) {
    this.#options = options;
  }

  /** Workers on their way. */
  get starting(): number {
    return this.#starting;
  }
  get restarts(): number {
    return this.#restarts;
  }
  /** Why a worker could not be started. */
  get failure(): string | undefined {
    return this.#failure;
  }

  /** @returns the lanes of the workers that could be started. */
  async startAll(count: number): Promise<CopyLane[]> {
    const lanes = await Promise.all(Array.from({ length: count }, () => this.#start()));
    return lanes.filter((lane) => lane !== undefined);
  }

  /** From now on the copier hears of workers that die and of those that replace them. */
  watch(copier: PoolCopier): void {
    this.#copier = copier;
    for (const lane of this.#dead) this.#died(lane);
    this.#dead = [];
  }

  /** Waits for the end of all workers; they have been told to stop. */
  *close(): Co<void> {
    this.#closing = true;
    yield* settled(() => Promise.all(this.#tasks));
  }

  async #start(): Promise<CopyLane | undefined> {
    const { piscina, owner, depth, worker, threadUsed } = this.#options;
    const { clusterSize, copyBytesMax } = worker;
    const slotCount = Math.max(1, Math.min(DEPTH_MAX, Math.floor(BUFFER_BYTES_MAX / copyBytesMax)));
    const channel = CopyChannel.create(slotCount, copyBytesMax / clusterSize);
    const { port1, port2 } = new MessageChannel();
    const control = wrap<CopyControl>(nodeEndpoint(port1));
    threadUsed(1);
    this.#starting += 1;
    const task: Promise<void> = piscina.run({ port: port2 }, { transferList: [port2] });
    let lane: CopyLane | undefined;
    let ended = false;
    const over = task
      .catch((error: unknown) => {
        ended = true;
        this.#failure = error instanceof Error ? error.message : String(error);
        if (lane !== undefined) this.#died(lane);
      })
      .finally(() => {
        this.#tasks.delete(over);
        port1.close();
        threadUsed(-1);
      });
    this.#tasks.add(over);
    try {
      const opened = control.open({ ...worker, channel, ownerThread: owner.index });
      const workerThread = await Promise.race([opened, over.then(() => undefined)]);
      if (workerThread === undefined || ended) return undefined;
      lane = new CopyLane({ channel: new CopyChannel(channel), owner, workerThread, clusterSize, depth });
      // What goes wrong while it serves ends its task, and is heard of there.
      void serveAndClose(control).catch(() => {});
      return lane;
    } catch (error) {
      this.#failure = error instanceof Error ? error.message : String(error);
      await Promise.race([control.close(), over]);
      return undefined;
    } finally {
      this.#starting -= 1;
    }
  }

  #died(lane: CopyLane): void {
    const { owner } = this.#options;
    owner.table.free(lane.workerThread);
    if (this.#copier === undefined) {
      this.#dead.push(lane);
      return;
    }
    this.#copier.laneDied(lane);
    if (!this.#closing && this.#restarts < RESTARTS_MAX) {
      this.#restarts += 1;
      void this.#start().then((replacement) => {
        if (replacement !== undefined) this.#copier?.laneStarted(replacement);
        // The copier's coroutines look again at who is there.
        owner.ring();
      });
    }
    owner.ring();
  }
}

/** Lets a worker copy until its channel is stopped, and then end. */
async function serveAndClose(control: Remote<CopyControl>): Promise<void> {
  await control.serve();
  await control.close();
}
