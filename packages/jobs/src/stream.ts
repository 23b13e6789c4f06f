/**
 * The stream job: fills an image with what shows through from its backing chain while a guest uses it, and then drops
 * the chain. It walks the disk (chunk-planner.ts), keeps as many copies in flight as the copier can take, and holds each
 * range in the top's tracker while it is copied (stream-window.ts). docs/streaming.md tells the whole story.
 */
import { BlockError, type Co, isBlockError, until } from "@spindle/base";
import type { BlockNode, Graph } from "@spindle/block";
import { ChunkPlanner } from "./chunk-planner.ts";
import type { Copier, CreateCopier } from "./copier.ts";
import type { Job, JobBody, OnError } from "./job.ts";
import type { JobRegistry } from "./job-registry.ts";
import { resolveStream, type StreamOptions, type StreamScope } from "./stream-options.ts";
import { StreamWindow, type WindowPiece } from "./stream-window.ts";

/** The length of one copy unless the user says otherwise: the unit in which QEMU reports progress and errors. */
const STREAM_CHUNK_BYTES = 512 * 1024;

const BUSY_REASON = "block device is in use by block job: stream";

/** The walk leaves the thread to others after this long, for this long. */
const WORK_MS = 8;
const REST_MS = 0.5;

export interface StreamContext {
  readonly graph: Graph;
  readonly jobs: JobRegistry;
  readonly createCopier: CreateCopier;
}

/**
 * Starts a stream job; it is `running` when this returns.
 * @throws {BlockError} with QEMU's text when the request cannot be met; nothing was changed.
 */
export function* startStream(context: StreamContext, options: StreamOptions): Co<Job> {
  const scope = resolveStream(context.graph, options);
  const jobOptions = { ...options, id: options.jobId };
  context.jobs.checkId(options.jobId);
  const body = new StreamBody(context, options, scope);
  try {
    yield* body.openFilter();
    return context.jobs.start(body, jobOptions);
  } catch (error) {
    yield* body.clean();
    throw error;
  }
}

/** A range that could not be copied. */
interface Trouble {
  /** Its first byte. */
  readonly start: number;
  readonly error: unknown;
  /** Leaves the range as it is; without this it is tried again. */
  giveUp(): void;
}

class StreamBody implements JobBody {
  readonly type = "stream";
  readonly #context: StreamContext;
  readonly #options: StreamOptions;
  readonly #scope: StreamScope;
  readonly #onError: OnError;
  readonly #tracked: BlockNode;
  #copier: Copier | undefined;
  #copierOpen = false;
  #planner: ChunkPlanner | undefined;
  #window: StreamWindow | undefined;
  /** The error that ends the job at once. */
  #failure: unknown;
  /** The first error that the user wants to live with. */
  #ignored: unknown;
  #errors = 0;
  /** Ranges that could not be copied or looked at, and about which nothing has been decided yet. */
  #troubles: Trouble[] = [];
  #filter: BlockNode | undefined;

  /** Nothing else may change the chain from here until {@link clean}. */
  constructor(context: StreamContext, options: StreamOptions, scope: StreamScope) {
    this.#context = context;
    this.#options = options;
    this.#scope = scope;
    this.#onError = options.onError ?? "report";
    this.#tracked = trackedNode(options.node, scope.top);
    for (const node of scope.frozen) node.busyReason = BUSY_REASON;
  }

  /** The node that the user wants to see above the top for as long as the job exists. */
  *openFilter(): Co<void> {
    const { filterNodeName } = this.#options;
    if (filterNodeName === undefined) return;
    const options = { driver: "copy-on-read", "node-name": filterNodeName, file: this.#scope.top.name };
    this.#filter = yield* this.#context.graph.open(options);
  }

  *run(job: Job): Co<void> {
    const { top, stop, base } = this.#scope;
    if (top.children.backing === stop) return;
    const chunk = this.#options.chunk ?? STREAM_CHUNK_BYTES;
    const { depth } = this.#options;
    const zeroClusters = base === null ? "leave" : "store";
    this.#copier = yield* this.#context.createCopier({
      top,
      zeroClusters,
      chunk,
      ...(depth === undefined ? {} : { depth }),
    });
    this.#copierOpen = true;
    const planner = new ChunkPlanner({ top, stop, chunk });
    this.#planner = planner;
    this.#window = new StreamWindow({
      job,
      top,
      tracked: this.#tracked,
      copier: this.#copier,
      failed: (start, error, giveUp) => this.#troubles.push({ start, error, giveUp }),
    });
    yield* this.#copyAll(job, planner, this.#window);
    const failure = this.#failure ?? this.#ignored;
    if (failure !== undefined && !job.cancelled) throw failure;
  }

  *prepare(): Co<void> {
    const { top, base, backingFile } = this.#scope;
    yield* this.#closeCopier();
    if (top.children.backing === null) return;
    // What was copied must be durable before the image says that it needs no backing file.
    yield* top.flush();
    if (top.driver.changeBackingFile === undefined)
      throw new BlockError("ENOTSUP", `'${top.driver.name}' images cannot change their backing file`);
    yield* top.driver.changeBackingFile(backingFile);
    yield* this.#tracked.exclusively(() => this.#context.graph.replaceBacking(top, base));
  }

  *clean(): Co<void> {
    for (const node of this.#scope.frozen) node.busyReason = null;
    yield* this.#closeCopier();
    if (this.#filter !== undefined) yield* this.#context.graph.remove(this.#filter.name);
  }

  statistics(): Readonly<Record<string, number | string>> {
    return {
      errors: this.#errors,
      ...this.#planner?.statistics(),
      ...this.#window?.statistics(),
      ...this.#copier?.statistics(),
    };
  }

  *#closeCopier(): Co<void> {
    if (this.#copier === undefined || !this.#copierOpen) return;
    this.#copierOpen = false;
    yield* this.#copier.close();
  }

  *#copyAll(job: Job, planner: ChunkPlanner, window: StreamWindow): Co<void> {
    const tell = (): void => job.setProgress(window.front(planner.cursor), this.#scope.top.length);
    let workingSinceMs = job.clock.now();
    let more = true;
    while (more && !job.cancelled && this.#failure === undefined) {
      tell();
      if (job.clock.now() - workingSinceMs > WORK_MS) {
        yield* job.idle(REST_MS);
        workingSinceMs = job.clock.now();
      }
      if (job.pauseRequested || this.#troubles.length > 0) {
        yield* window.drain();
        tell();
        this.#decideAll(job);
        yield* job.pausePoint();
      } else if (yield* this.#holdBack(job, window, planner)) workingSinceMs = job.clock.now();
      else more = yield* this.#startNext(job, window, planner);
    }
    yield* window.drain();
    tell();
  }

  /** Starts the next copy, or waits for one to end when there is none to start. @returns false when all is done. */
  *#startNext(job: Job, window: StreamWindow, planner: ChunkPlanner): Co<boolean> {
    const piece = window.takeRetry() ?? (yield* this.#plan(job, planner));
    if (piece === "again") return true;
    if (piece !== undefined) window.start(piece);
    else if (window.empty) return false;
    else yield* window.waitForRetryOrEnd();
    return true;
  }

  /** Waits for room among the copies in flight, or for the rate limit. @returns true when it waited. */
  *#holdBack(job: Job, window: StreamWindow, planner: ChunkPlanner): Co<boolean> {
    if (window.full) {
      yield* until(() => !window.full || job.cancelled || job.pauseRequested);
      return true;
    }
    const delayMs = job.limit.delayMs();
    if (delayMs === 0) return false;
    const seen = job.limit.changes;
    const front = window.front(planner.cursor);
    yield* job.idle(delayMs, () => job.limit.changes !== seen || window.front(planner.cursor) !== front);
    return true;
  }

  /** The planner's next piece that there is something to do for. */
  *#plan(job: Job, planner: ChunkPlanner): Co<WindowPiece | "again" | undefined> {
    try {
      const piece = yield* planner.next(job.limit.sliceBytes);
      if (piece === undefined) return undefined;
      if (piece.kind === "skip") return "again";
      job.limit.spend(piece.kind === "copy" ? piece.end - piece.start : 0);
      return { kind: piece.kind, start: piece.start, end: piece.end, tries: 0, dueMs: 0 };
    } catch (error) {
      this.#troubles.push({ start: planner.cursor, error, giveUp: () => planner.skipChunk() });
      return "again";
    }
  }

  /**
   * Applies the user's policy to what failed, in the order of the disk, as if one range had been copied after the
   * other. No copy is in flight, so whoever hears of the error finds the job at the failing range. After one that stops
   * the job the others are forgotten: they are tried again when it goes on.
   */
  #decideAll(job: Job): void {
    const troubles = this.#troubles.sort((one, other) => one.start - other.start);
    this.#troubles = [];
    for (const { error, giveUp } of troubles) {
      if (job.cancelled) return;
      this.#errors += 1;
      if (!isBlockError(error)) {
        this.#failure = error;
        return;
      }
      const operation = error.context.operation === "write" ? "write" : "read";
      const action = job.errorAction(this.#onError, operation, error);
      if (action === "report") this.#failure = error;
      if (action !== "ignore") return;
      this.#ignored ??= error;
      giveUp();
    }
  }
}

/** Where requests for `top` are tracked: at itself, or at the filter above it that is its only user. */
function trackedNode(node: BlockNode, top: BlockNode): BlockNode {
  let tracked = top;
  for (let current = node; top.tracker === null && current !== top; current = current.children.file as BlockNode)
    if (current.tracker !== null) tracked = current;
  return tracked;
}
