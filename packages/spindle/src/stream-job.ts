/**
 * A stream job as users of the library hold it: await it for its result, iterate over it for its progress, and steer it
 * meanwhile. The job itself is `startStream` of the package `jobs`.
 */
import { setTimeout as delay } from "node:timers/promises";
import { isBlockError } from "@spindle/base";
import type { BlockNode } from "@spindle/block";
import { type Job, type OnError, type StreamOptions, startStream } from "@spindle/jobs";
import type { Session } from "./session.ts";
import { streamBase } from "./stream-base.ts";
import { ProgressMeter, type StreamProgress } from "./stream-progress.ts";

export interface StreamJobOptions {
  /** Copy workers; 0 copies on this thread. Default 2. */
  readonly workers?: number;
  /** Bytes of the longest copy; default 512 KiB. */
  readonly chunk?: number;
  /** Bytes per second; 0, the default, for no limit. */
  readonly speed?: number;
  /** The file name of the image of the chain that stays below; the whole chain is dropped when absent. */
  readonly base?: string;
  /** Default `report`: the first error ends the job. */
  readonly onError?: OnError;
  /** Cancels the job; it is then rejected with the signal's reason. */
  readonly signal?: AbortSignal;
}

export interface StreamResult extends StreamProgress {
  /** Counters of the job and its workers, for people. */
  readonly statistics: Readonly<Record<string, number | string>>;
}

/** Somebody who iterates sees the progress at most this often. */
const PROGRESS_INTERVAL_MS = 100;

export class StreamJob implements PromiseLike<StreamResult>, AsyncIterable<StreamProgress> {
  readonly #session: Session;
  readonly #node: BlockNode;
  readonly #meter: ProgressMeter;
  readonly #started: Promise<Job>;
  readonly #result: Promise<StreamResult>;

  /** Made by `Disk.stream`. */
  constructor(session: Session, node: BlockNode, jobId: string, options: StreamJobOptions) {
    this.#session = session;
    this.#node = node;
    this.#meter = new ProgressMeter(this.#now());
    this.#started = this.#start(jobId, options);
    this.#result = this.#run(options.signal);
    // Whoever neither awaits nor iterates does not want to hear of it.
    this.#result.catch(() => {});
  }

  // biome-ignore lint/suspicious/noThenProperty: a job is awaited for its result
  then<A = StreamResult, B = never>(
    fulfilled?: ((result: StreamResult) => A | PromiseLike<A>) | null,
    rejected?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    return this.#result.then(fulfilled, rejected);
  }

  /**
   * The progress, conflated: whoever takes long between two steps gets the newest, never a queue. Ends with the job, and
   * throws what the job is rejected with.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<StreamProgress, void, void> {
    const job = await this.#started;
    while (!job.over) {
      yield this.#look(job);
      await this.#overOrAfter(PROGRESS_INTERVAL_MS);
    }
    yield this.#look(job);
    await this.#result;
  }

  /** How far the job is now; it has started. */
  async progress(): Promise<StreamProgress> {
    return this.#look(await this.#started);
  }

  /** @throws {BlockError} EPERM when the job is over or already paused. */
  async pause(): Promise<void> {
    (await this.#started).pause();
  }

  /** @throws {BlockError} EPERM when the job is over or not paused. */
  async resume(): Promise<void> {
    (await this.#started).resume();
  }

  /**
   * @param speed bytes per second, 0 for no limit
   * @throws {BlockError} EPERM when the job is over, EINVAL when the speed is negative.
   */
  async setSpeed(speed: number): Promise<void> {
    (await this.#started).setSpeed(speed);
  }

  /** Stops the job and waits for its end. What was copied stays, and the next stream goes on from there. */
  async cancel(): Promise<void> {
    const job = await this.#started;
    if (!job.over && job.status !== "aborting") job.cancel();
    await this.settled();
  }

  /** Waits for the end, whatever it is. */
  async settled(): Promise<void> {
    await this.#result.catch(() => {});
  }

  async #start(jobId: string, options: StreamJobOptions): Promise<Job> {
    const node = this.#node;
    const { workers, chunk, speed, base, onError, signal } = options;
    signal?.throwIfAborted();
    const { graph, jobs } = this.#session;
    const createCopier = workers === undefined ? this.#session.createCopier : this.#session.copiers(workers);
    const request: StreamOptions = {
      jobId,
      node,
      ...(chunk === undefined ? {} : { chunk }),
      ...(speed === undefined ? {} : { speed }),
      ...(onError === undefined ? {} : { onError }),
      ...(base === undefined ? {} : streamBase(node, base)),
    };
    return await this.#session.run(startStream({ graph, jobs, createCopier }, request));
  }

  async #run(signal: AbortSignal | undefined): Promise<StreamResult> {
    const job = await this.#started;
    const abort = (): void => {
      if (!job.over && job.status !== "aborting") job.cancel();
    };
    signal?.addEventListener("abort", abort);
    if (signal?.aborted === true) abort();
    try {
      await this.#session.run(job.ended());
    } finally {
      signal?.removeEventListener("abort", abort);
    }
    if (job.failure === undefined) return { ...this.#look(job), statistics: job.blockJobInfo()["x-statistics"] ?? {} };
    throw signal?.aborted === true && isBlockError(job.failure, "ECANCELED") ? signal.reason : job.failure;
  }

  #now(): number {
    return this.#session.environment.clock.now();
  }

  #look(job: Job): StreamProgress {
    const { status, ioStatus } = job;
    // A job tells its length when it has begun to look, and where there is nothing to do it never looks.
    const len = job.len === 0 ? this.#node.length : job.len;
    const offset = job.over && job.failure === undefined ? len : job.offset;
    return this.#meter.look(this.#now(), { offset, len, status, ioStatus });
  }

  async #overOrAfter(intervalMs: number): Promise<void> {
    const timer = new AbortController();
    const waited = delay(intervalMs, undefined, { signal: timer.signal }).catch(() => {});
    await Promise.race([waited, this.settled()]);
    timer.abort();
  }
}
