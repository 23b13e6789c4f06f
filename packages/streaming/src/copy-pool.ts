/**
 * The pool of copy workers of one process: threads that piscina keeps, each with one long task while a stream job uses
 * it. A job whose chain or image cannot be shared between threads is copied on the owner's thread instead.
 */
import { alignUp, type Clock, type Co, type Runner } from "@spindle/base";
import { chainOf, describeShared, type SharedDescription } from "@spindle/block";
import { type Copier, type CopierOptions, type CreateCopier, LocalCopier } from "@spindle/jobs";
import type { Thread, ThreadTableHandle } from "@spindle/shared-memory";
import type { Piscina } from "piscina";
import { LaneStarter, touchWorker } from "./lane-starter.ts";
import { PoolCopier } from "./pool-copier.ts";
import { workerThreads } from "./worker-threads.ts";

/** Threads of all jobs together; the thread table has room for as many again. */
const THREADS_MAX = 32;

const WORKERS_DEFAULT = 2;

export interface CopyPoolOptions {
  readonly threads: ThreadTableHandle;
  /** The owner's place in that table; its runner sleeps on it. */
  readonly owner: Thread;
  readonly clock: Clock;
  /** The owner's runner. It must run on an event loop: workers are started with it. */
  readonly runner: Pick<Runner, "spawn">;
  /** Workers of one job; 2 when absent. */
  readonly workers?: number;
}

export class CopyPool {
  readonly #options: CopyPoolOptions;
  #piscina: Piscina | undefined;
  #threadsInUse = 0;
  #warm = false;

  constructor(options: CopyPoolOptions) {
    this.#options = options;
  }

  /** Makes the copier of one stream job; for `StreamContext.createCopier`. */
  readonly createCopier: CreateCopier = (options) => this.#createCopier(options);

  /** Starts the threads of one job and waits until they are ready, so that the next job need not wait for them. */
  async warmUp(): Promise<void> {
    const piscina = this.#startPiscina(this.#workers);
    await Promise.all(Array.from({ length: this.#workers }, () => touchWorker(piscina)));
    this.#warm = true;
  }

  get #workers(): number {
    return this.#options.workers ?? WORKERS_DEFAULT;
  }

  /** Ends all threads. No job is running. */
  async close(): Promise<void> {
    await this.#piscina?.destroy();
    this.#piscina = undefined;
  }

  *#createCopier(options: CopierOptions): Co<Copier> {
    const shared = shareable(options);
    if (typeof shared === "string") return new LocalCopier(options, shared);
    const workers = Math.min(this.#workers, THREADS_MAX - this.#threadsInUse);
    if (workers < 1) return new LocalCopier(options, "all copy threads are in use");
    // Workers read the files, so what this thread still has in memory must be there.
    for (const node of chainOf(options.top).slice(1)) if (!node.readOnly) yield* node.flush();
    const { clusters, chain, targetDescriptor } = shared;
    const { clusterSize } = clusters;
    const copyBytesMax = alignUp(options.chunk, clusterSize);
    const starter = new LaneStarter({
      piscina: this.#startPiscina(0),
      owner: this.#options.owner,
      depth: options.depth,
      worker: { chain, targetDescriptor, clusterSize, copyBytesMax, threads: this.#options.threads },
      threadUsed: (change) => {
        this.#threadsInUse += change;
      },
    });
    const { clock, runner } = this.#options;
    return new PoolCopier({ ...options, clusters, clock, runner, starter, workers, warm: this.#warm });
  }

  #startPiscina(minThreads: number): Piscina {
    this.#piscina ??= workerThreads("copy-worker", { minThreads, maxThreads: THREADS_MAX });
    return this.#piscina;
  }
}

/** What workers need of a job's nodes, or why they cannot have it. */
function shareable({ top }: CopierOptions) {
  const { clusters } = top.driver;
  const targetDescriptor = (top.children.data ?? top.children.file)?.driver.fileDescriptor;
  if (clusters === undefined) return `'${top.driver.name}' images are not made of clusters`;
  if (targetDescriptor === undefined) return "the image is not a plain file of this host";
  const below = top.children.backing;
  const chain: SharedDescription | undefined = below === null ? undefined : describeShared(below);
  if (chain === undefined) return "the chain can only be read on the owner's thread";
  return { clusters, targetDescriptor, chain };
}
