/**
 * A stream job's copier on worker threads. The owner reserves host clusters, a worker reads and writes, and the owner
 * then makes the image point at what was written. A copy whose worker dies is given to another one, or done here; the
 * stream job holds its range all the while, so nobody else has touched it. Threads take a while to start, so short jobs
 * do without, and long ones begin without.
 */
import { alignUp, BlockError, type Clock, type Co, type Runner, until } from "@spindle/base";
import type { Allocation, BlockNode, ClusterMap } from "@spindle/block";
import { attributed, type Copier, type CopierOptions, type CopyOutcome, LocalCopier } from "@spindle/jobs";
import type { CopyLane, CopyResult, PendingCopy } from "./copy-lane.ts";
import type { LaneStarter, LaneUser } from "./lane-starter.ts";

/** A copy that has cost so many workers is done on the owner's thread: perhaps it is what kills them. */
const DEATHS_MAX = 3;

/** Workers are started for jobs that have copied so much, or taken so long, without them. */
const START_BYTES = 8 * 1024 * 1024;
const START_MS = 50;

/** Where lanes come from: see {@link LaneStarter}. */
export type LaneSource = Pick<LaneStarter, "start" | "close" | "restarts" | "failure">;

export interface PoolCopierOptions extends CopierOptions {
  readonly clusters: ClusterMap;
  readonly clock: Clock;
  readonly runner: Pick<Runner, "spawn">;
  readonly starter: LaneSource;
  readonly workers: number;
  /** The threads are there already: they are used from the first copy on. */
  readonly warm?: boolean;
}

export class PoolCopier implements Copier, LaneUser {
  readonly #options: PoolCopierOptions;
  readonly #top: BlockNode;
  readonly #clusters: ClusterMap;
  readonly #lanes: CopyLane[] = [];
  /** Copies while there is no worker, and ranges that are not whole clusters. */
  readonly #local: LocalCopier;
  readonly #createdMs: number;
  /** Copies that no lane has: none has a slot, or their worker died. */
  readonly #waiting: PendingCopy[] = [];
  #localBytes = 0;
  #started = false;
  #closed = false;
  #copies = 0;
  #redone = 0;
  #pumpEnded = false;

  constructor(options: PoolCopierOptions) {
    this.#options = options;
    this.#top = options.top;
    this.#clusters = options.clusters;
    this.#local = new LocalCopier(options);
    this.#createdMs = options.clock.now();
    if (options.warm === true) this.#startWorkers();
    options.runner.spawn(this.#pump(), () => {
      this.#pumpEnded = true;
    });
  }

  get capacity(): number {
    if (this.#lanes.length === 0) return this.#local.capacity;
    let capacity = 0;
    for (const lane of this.#lanes) capacity += lane.depth;
    return capacity;
  }

  *copy(offset: number, length: number): Co<CopyOutcome> {
    const { clusterSize } = this.#clusters;
    const end = offset + length;
    const whole = offset % clusterSize === 0 && (length % clusterSize === 0 || end === this.#top.length);
    if (!whole || this.#lanes.length === 0) return yield* this.#copyHere(offset, length);
    const outcome = { dataBytes: 0, zeroBytes: 0 };
    for (let at = offset; at < end; ) {
      const wanted = alignUp(end - at, clusterSize);
      const allocation = yield* attributed("write", this.#clusters.allocate(at, wanted, true));
      const { dataBytes, zeroBytes } = yield* this.#fill(allocation, Math.min(allocation.length, end - at));
      outcome.dataBytes += dataBytes;
      outcome.zeroBytes += zeroBytes;
      at += allocation.length;
    }
    return outcome;
  }

  *close(): Co<void> {
    this.#closed = true;
    for (const lane of this.#lanes) lane.stop();
    yield* this.#options.starter.close();
    yield* until(() => this.#pumpEnded);
    yield* this.#local.close();
  }

  statistics(): Readonly<Record<string, number | string>> {
    const { failure, restarts } = this.#options.starter;
    return {
      copier: "pool",
      workers: this.#lanes.length,
      capacity: this.capacity,
      copies: this.#copies,
      "copies-on-owner-thread": this.#local.copies,
      "copies-redone": this.#redone,
      "workers-replaced": restarts,
      ...(failure === undefined ? {} : { "worker-failure": failure }),
    };
  }

  /** A worker has died: others take over what it had. */
  laneDied(lane: CopyLane): void {
    const index = this.#lanes.indexOf(lane);
    if (index >= 0) this.#lanes.splice(index, 1);
    for (const copy of lane.abandon(this.#options.clock.now())) {
      copy.deaths += 1;
      this.#redone += 1;
      this.#waiting.push(copy);
    }
  }

  /** A worker has come. */
  laneStarted(lane: CopyLane): void {
    if (this.#closed) lane.stop();
    else this.#lanes.push(lane);
  }

  *#copyHere(offset: number, length: number): Co<CopyOutcome> {
    this.#localBytes += length;
    const { clock } = this.#options;
    if (this.#localBytes >= START_BYTES || clock.now() - this.#createdMs > START_MS) this.#startWorkers();
    return yield* this.#local.copy(offset, length);
  }

  #startWorkers(): void {
    if (this.#started) return;
    this.#started = true;
    this.#options.starter.start(this.#options.workers, this);
  }

  *#fill(allocation: Allocation, dataLength: number): Co<CopyOutcome> {
    const { guestOffset, length, hostOffset } = allocation;
    const copy: PendingCopy = { guestOffset, dataLength, length, hostOffset, deaths: 0, result: undefined };
    this.#waiting.push(copy);
    this.#dispatch();
    yield* until(() => copy.result !== undefined);
    const result = copy.result as CopyResult;
    this.#copies += 1;
    if (result.kind === "done")
      return yield* attributed("write", this.#publish(allocation, dataLength, result.zeroMask));
    yield* this.#clusters.release(allocation);
    if (result.kind === "orphaned") return yield* this.#copyHere(guestOffset, dataLength);
    throw asBlockError(result.error, result.kind);
  }

  /** Makes the image point at the clusters with data, and gives back those that turned out to be zeros. */
  *#publish(allocation: Allocation, dataLength: number, zeroMask: Uint8Array): Co<CopyOutcome> {
    const { clusterSize } = this.#clusters;
    const { guestOffset, hostOffset, reserved } = allocation;
    let dataBytes = 0;
    for (let first = 0; first < zeroMask.length; ) {
      const zero = zeroMask[first] === 1;
      let end = first + 1;
      while (end < zeroMask.length && (zeroMask[end] === 1) === zero) end += 1;
      const start = first * clusterSize;
      const length = (end - first) * clusterSize;
      const part = { guestOffset: guestOffset + start, length, hostOffset: hostOffset + start, reserved };
      const bytes = Math.min(length, dataLength - start);
      if (zero) yield* this.#leaveOut(part, bytes);
      else {
        yield* this.#clusters.publish(part);
        dataBytes += bytes;
      }
      first = end;
    }
    return { dataBytes, zeroBytes: dataLength - dataBytes };
  }

  *#leaveOut(part: Allocation, bytes: number): Co<void> {
    yield* this.#clusters.release(part);
    if (this.#options.zeroClusters === "store") yield* this.#top.driver.writeZeroes(part.guestOffset, bytes, {});
  }

  /** Takes in what comes back, and hands out what waits. */
  *#pump(): Co<void> {
    for (;;) {
      yield* until(() => this.#closed || this.#lanes.some((lane) => lane.hasCompletion) || this.#canDispatch());
      if (this.#closed) return;
      for (const lane of this.#lanes) lane.collect(this.#options.clock.now());
      this.#dispatch();
    }
  }

  #canDispatch(): boolean {
    const copy = this.#waiting[0];
    if (copy === undefined) return false;
    return this.#isOrphaned(copy) || this.#lanes.some((lane) => lane.hasSlot);
  }

  /** No worker is there for it, or it has cost too many. */
  #isOrphaned(copy: PendingCopy): boolean {
    return this.#lanes.length === 0 || copy.deaths >= DEATHS_MAX;
  }

  #dispatch(): void {
    for (let copy = this.#waiting[0]; copy !== undefined; copy = this.#waiting[0]) {
      if (this.#isOrphaned(copy)) {
        copy.result = { kind: "orphaned" };
      } else {
        const lane = this.#lanes
          .filter((candidate) => candidate.hasSlot)
          .reduce<CopyLane | undefined>(
            (best, next) => (best === undefined || next.room > best.room ? next : best),
            undefined,
          );
        if (lane === undefined) return;
        lane.start(copy);
      }
      this.#waiting.shift();
    }
  }
}

function asBlockError(error: Error, operation: "read" | "write"): BlockError {
  const { code, message, context } = error as BlockError;
  return new BlockError(code, message, { ...context, operation }, error);
}
