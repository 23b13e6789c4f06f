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
import { settled } from "./settled.ts";

/** Memory for the buffers of one worker, in bytes. */
const BUFFER_BYTES_MAX = 16 * 1024 * 1024;
const DEPTH_MAX = 64;

/** Workers that one job replaces at most: what kills so many is in the image, and would kill the next one too. */
const RESTARTS_MAX = 16;

/** Who uses the lanes. */
export interface LaneUser {
  laneStarted(lane: CopyLane): void;
  laneDied(lane: CopyLane): void;
}

export interface LaneStarterOptions {
  readonly piscina: Piscina;
  readonly owner: Thread;
  /** The depth that the user wants; undefined to find out. */
  readonly depth: number | undefined;
  readonly worker: Omit<CopyWorkerOptions, "channel" | "ownerThread">;
  /** Told 1 when a thread is taken and -1 when it is given back. */
  readonly threadUsed: (change: 1 | -1) => void;
}

export class LaneStarter {
  readonly #options: LaneStarterOptions;
  /** The tasks of workers that use the files of the job. */
  readonly #tasks: Set<Promise<void>> = new Set();
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
  /** Workers that replaced dead ones. */
  get restarts(): number {
    return this.#restarts;
  }
  /** Why the last worker that failed did so. */
  get failure(): string | undefined {
    return this.#failure;
  }

  /** Starts workers; the user hears of each as soon as it can copy. */
  start(count: number, user: LaneUser): void {
    for (let index = 0; index < count; index++) {
      this.#starting += 1;
      void this.#startOne(user).finally(() => {
        this.#starting -= 1;
        // The user's coroutines look again at who is there.
        this.#options.owner.ring();
      });
    }
  }

  /** Waits until no worker uses the job's files any more. Those in use have been told to stop; the others never begin. */
  *close(): Co<void> {
    this.#closing = true;
    yield* settled(() => Promise.all(this.#tasks));
  }

  async #startOne(user: LaneUser): Promise<void> {
    const { piscina, threadUsed } = this.#options;
    const { port1, port2 } = new MessageChannel();
    const control = wrap<CopyControl>(nodeEndpoint(port1));
    const worker: { lane?: CopyLane; dead: boolean } = { dead: false };
    threadUsed(1);
    const task: Promise<void> = piscina.run({ port: port2 }, { transferList: [port2] });
    const over = task
      .catch((error: unknown) => {
        worker.dead = true;
        this.#fail(error);
        if (worker.lane !== undefined) this.#died(worker.lane, user);
      })
      .finally(() => {
        this.#tasks.delete(over);
        port1.close();
        threadUsed(-1);
      });
    await Promise.race([control.ready(), over]);
    if (worker.dead) return;
    if (this.#closing) {
      await Promise.race([control.close(), over]);
      return;
    }
    this.#tasks.add(over);
    const lane = await this.#open(control, over);
    if (lane === undefined || worker.dead) return;
    worker.lane = lane;
    user.laneStarted(lane);
    // What goes wrong while it serves ends its task, and is heard of there.
    void serveAndClose(control).catch(() => {});
  }

  async #open(control: Remote<CopyControl>, over: Promise<void>): Promise<CopyLane | undefined> {
    const { owner, depth, worker } = this.#options;
    const { clusterSize, copyBytesMax } = worker;
    const slotCount = Math.max(1, Math.min(DEPTH_MAX, Math.floor(BUFFER_BYTES_MAX / copyBytesMax)));
    const channel = CopyChannel.create(slotCount, copyBytesMax / clusterSize);
    try {
      const opened = control.open({ ...worker, channel, ownerThread: owner.index });
      const workerThread = await Promise.race([opened, over]);
      if (workerThread === undefined) return undefined;
      return new CopyLane({ channel: new CopyChannel(channel), owner, workerThread, clusterSize, depth });
    } catch (error) {
      this.#fail(error);
      await Promise.race([control.close(), over]);
      return undefined;
    }
  }

  #fail(error: unknown): void {
    this.#failure = error instanceof Error ? error.message : String(error);
  }

  #died(lane: CopyLane, user: LaneUser): void {
    const { owner } = this.#options;
    owner.table.free(lane.workerThread);
    if (!this.#closing && this.#restarts < RESTARTS_MAX) {
      this.#restarts += 1;
      this.start(1, user);
    }
    user.laneDied(lane);
    owner.ring();
  }
}

/** Starts a task on a thread of the pool and ends it again: afterwards the thread is there and has loaded its code. */
export async function touchWorker(piscina: Piscina): Promise<void> {
  const { port1, port2 } = new MessageChannel();
  const control = wrap<CopyControl>(nodeEndpoint(port1));
  const task: Promise<void> = piscina.run({ port: port2 }, { transferList: [port2] });
  try {
    await Promise.race([control.ready(), task]);
    await Promise.race([control.close(), task]);
    await task;
  } finally {
    port1.close();
  }
}

/** Lets a worker copy until its channel is stopped, and then end. */
async function serveAndClose(control: Remote<CopyControl>): Promise<void> {
  await control.serve();
  await control.close();
}
