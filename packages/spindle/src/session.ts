/**
 * The composition root: everything that one owner thread needs to open a graph of images and to run jobs on it. The
 * library, the programs and the demo all start here; the choice of drivers, runner and copiers is made nowhere else.
 */
import { AsyncRunner, assert, type Co, type EventLoop, encodeUtf8, perform } from "@spindle/base";
import { type Environment, Graph, SecretStore } from "@spindle/block";
import { HostBackingPolicy, nodeEnvironment, nodeEventLoop, nodeSecrets, sharingCalls } from "@spindle/host-node";
import { type CreateCompressor, type CreateCopier, JobRegistry, LocalCopier } from "@spindle/jobs";
import { RangeLock, type Thread, ThreadTable, type ThreadTableHandle } from "@spindle/shared-memory";
import type { CopyPool } from "@spindle/streaming";
import { driverRegistry } from "./driver-registry.ts";

/** Secrets by their ids. */
export type Secrets = Readonly<Record<string, string | Uint8Array>>;

/** What the functions of the library take for every image that they open. */
export type ImageAccess = Pick<SessionOptions, "allowBacking" | "secrets" | "warn">;

export interface SessionOptions {
  /** Folders in which, or below which, images may have backing files beside their own folder. */
  readonly allowBacking?: readonly string[];
  /** Passwords of encrypted images, by the ids with which options such as `encrypt.key-secret` name them. */
  readonly secrets?: SecretStore | Secrets | undefined;
  /** Takes what is to be told of an image that is no error, and what can be done. */
  readonly warn?: Environment["warn"] | undefined;
  /** Copy workers of each stream job, unless the job says otherwise; 2 when absent. */
  readonly workers?: number;
}

const WORKERS_DEFAULT = 2;

/** One for each thread: it holds a timer for as long as the thread lives. */
let eventLoop: EventLoop | undefined;

export class Session implements AsyncDisposable {
  /** For other threads that take part. */
  readonly threads: ThreadTableHandle;
  /** This thread's place among them. */
  readonly thread: Thread;
  readonly environment: Environment;
  readonly runner: AsyncRunner;
  readonly graph: Graph;
  readonly jobs: JobRegistry;
  /** Makes the copiers of stream jobs that do not say how many workers they want. */
  readonly createCopier: CreateCopier;
  readonly #pools: Map<number, CopyPool> = new Map();
  #closed: Promise<void> | undefined;

  constructor(options: SessionOptions = {}) {
    this.threads = ThreadTable.create();
    const thread = new ThreadTable(this.threads, (descriptor) => sharingCalls().signal(descriptor)).attach();
    this.thread = thread;
    const { warn } = options;
    const environment = nodeEnvironment(secretStore(options.secrets));
    this.environment = warn === undefined ? environment : { ...environment, warn };
    eventLoop ??= nodeEventLoop();
    const runner = new AsyncRunner(eventLoop, thread);
    this.runner = runner;
    this.graph = new Graph({
      environment: this.environment,
      registry: driverRegistry(),
      backingPolicy: new HostBackingPolicy({ allowedFolders: options.allowBacking ?? [] }),
      createTracker: () => new RangeLock(RangeLock.create(), thread, this.environment.clock),
    });
    this.jobs = new JobRegistry({ clock: this.environment.clock, runner, wake: () => runner.wake() });
    this.createCopier = this.copiers(options.workers ?? WORKERS_DEFAULT);
  }

  /** Makes copiers with so many worker threads for each job; with 0, copies are made on this thread. */
  copiers(workers: number): CreateCopier {
    if (workers === 0) return localCopier;
    const session = this;
    return function* (options) {
      const pool = yield* session.#pool(workers);
      return yield* pool.createCopier(options);
    };
  }

  /** Makes compressors with so many worker threads, at least 1, for each conversion. */
  compressors(workers: number): CreateCompressor {
    const { threads, thread: owner, environment } = this;
    return function* (options) {
      const { compressPool } = yield* loaded(() => import("@spindle/streaming"));
      return yield* compressPool({ threads, owner, codecs: environment.codecs, workers })(options);
    };
  }

  /** Starts the threads of jobs with so many workers, so that the first of them need not wait for their start. */
  async warmUp(workers: number): Promise<void> {
    if (workers === 0) return;
    const pool = await this.run(this.#pool(workers));
    await pool.warmUp();
  }

  /** Runs a coroutine beside the others of this thread. */
  run<T>(co: Co<T>): Promise<T> {
    return this.runner.run(co);
  }

  /** Cancels all jobs, closes the whole graph, and ends all workers. The first error is thrown at the end. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  *#pool(workers: number): Co<CopyPool> {
    // Loaded by the first who copies: for a short command it costs as much as half of the rest.
    const { CopyPool } = yield* loaded(() => import("@spindle/streaming"));
    let pool = this.#pools.get(workers);
    if (pool === undefined) {
      const { threads, thread: owner, runner } = this;
      pool = new CopyPool({ threads, owner, runner, clock: this.environment.clock, workers });
      this.#pools.set(workers, pool);
    }
    return pool;
  }

  async #close(): Promise<void> {
    try {
      await this.run(this.jobs.cancelAll());
      await this.run(this.graph.close());
    } finally {
      for (const pool of this.#pools.values()) await pool.close();
      this.thread.detach();
    }
  }
}

function secretStore(secrets: SecretStore | Secrets = {}): SecretStore {
  if (secrets instanceof SecretStore) return secrets;
  const store = nodeSecrets();
  for (const [id, data] of Object.entries(secrets)) store.add(id, typeof data === "string" ? encodeUtf8(data) : data);
  return store;
}

const localCopier: CreateCopier = function* (options) {
  return new LocalCopier(options);
};

/** Waits for a module. */
function loaded<T>(load: () => Promise<T>): Co<T> {
  return perform<T>({
    kind: "operation",
    perform(): T {
      assert(false, "modules are loaded on an event loop");
    },
    start(settle) {
      load().then(
        (module) => settle(undefined, module),
        (error: unknown) => settle(error),
      );
    },
  });
}
