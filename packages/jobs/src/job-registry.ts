/** All jobs of one graph by id, and the one stream of their events. Lives on the graph's owner thread. */
import { BlockError, type Clock, type Co, type Runner } from "@spindle/base";
import { Job, type JobBody, type JobHost, type JobOptions } from "./job.ts";
import type { BlockJobInfo, JobEvent, JobInfo } from "./job-event.ts";

/** Names that QEMU accepts as ids. */
const WELL_FORMED_ID = /^[a-zA-Z][a-zA-Z0-9._-]*$/;

export interface JobRegistryOptions {
  readonly clock: Clock;
  /** The runner of the owner thread; jobs run beside its other coroutines. */
  readonly runner: Pick<Runner, "spawn">;
  /** Makes the runner look at its parked coroutines, for verbs that come from outside of one: `AsyncRunner.wake`. */
  readonly wake?: () => void;
}

export class JobRegistry implements JobHost {
  readonly clock: Clock;
  readonly #runner: Pick<Runner, "spawn">;
  readonly #wake: () => void;
  readonly #jobs: Map<string, Job> = new Map();
  readonly #listeners: Set<(event: JobEvent) => void> = new Set();

  constructor(options: JobRegistryOptions) {
    this.clock = options.clock;
    this.#runner = options.runner;
    this.#wake = options.wake ?? ((): void => {});
  }

  /** @throws {BlockError} EINVAL when it is no valid id, EEXIST when it is taken; QEMU's texts. */
  checkId(id: string): void {
    if (!WELL_FORMED_ID.test(id)) throw new BlockError("EINVAL", `Invalid job ID '${id}'`);
    if (this.#jobs.has(id)) throw new BlockError("EEXIST", `Job ID '${id}' already in use`);
  }

  /**
   * Makes a job and starts it: it is `running` when this returns.
   * @throws {BlockError} as {@link checkId}, and EINVAL when the speed is negative.
   */
  start(body: JobBody, options: JobOptions): Job {
    this.checkId(options.id);
    const job = new Job(this, body, options);
    job.start();
    this.#jobs.set(job.id, job);
    return job;
  }

  find(id: string): Job | undefined {
    return this.#jobs.get(id);
  }

  /** All jobs, the newest first, as QEMU lists them. */
  list(): Job[] {
    return [...this.#jobs.values()].reverse();
  }

  /** Calls the listener at every event, in order, until the returned function is called. It must not throw. */
  onEvent(listener: (event: JobEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** What `query-block-jobs` answers. */
  queryBlockJobs(): BlockJobInfo[] {
    return this.list().map((job) => job.blockJobInfo());
  }

  /** What `query-jobs` answers. */
  queryJobs(): JobInfo[] {
    return this.list().map((job) => job.jobInfo());
  }

  /** Cancels every job that still can be, and waits until all are over. */
  *cancelAll(): Co<void> {
    for (const job of this.list()) {
      if (job.over) continue;
      if (job.status !== "aborting") job.cancel();
      yield* job.ended();
    }
  }

  emit(event: JobEvent): void {
    for (const listener of [...this.#listeners]) listener(event);
  }

  wake(): void {
    this.#wake();
  }

  spawn(co: Co<void>, settled: (error: unknown) => void): void {
    this.#runner.spawn(co, settled);
  }

  dismissed(job: Job): void {
    this.#jobs.delete(job.id);
  }
}
