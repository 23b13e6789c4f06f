/**
 * A stream job's copier on worker threads. The owner reserves host clusters, a worker reads and writes, and the owner
 * then makes the image point at what was written. A copy whose worker dies is given to another one; the stream job
 * holds its range all the while, so nobody else has touched it.
 */
import { alignUp, BlockError, type Clock, type Co, type Runner, until } from "@spindle/base";
import type { Allocation, BlockNode, ClusterMap } from "@spindle/block";
import { attributed, type Copier, type CopierOptions, type CopyOutcome, LocalCopier } from "@spindle/jobs";
import type { CopyLane, PendingCopy } from "./copy-lane.ts";

/** A copy that has cost so many workers is given up: it is what kills them. */
const DEATHS_MAX = 3;

/** Starts workers for one job, and tells when one dies. */
export interface LaneSource {
  /** Whether lanes may still come after all present ones are gone. */
  readonly starting: number;
  close(): Co<void>;
  readonly restarts: number;
}

export interface PoolCopierOptions extends CopierOptions {
  readonly clusters: ClusterMap;
  readonly clock: Clock;
  readonly runner: Pick<Runner, "spawn">;
  readonly lanes: CopyLane[];
  readonly source: LaneSource;
}

export class PoolCopier implements Copier {
  readonly #options: PoolCopierOptions;
  readonly #top: BlockNode;
  readonly #clusters: ClusterMap;
  readonly #lanes: CopyLane[];
  /** For ranges that are not whole clusters. */
  readonly #local: LocalCopier;
  /** Copies that no lane has: none has a slot, or their worker died. */
  #waiting: PendingCopy[] = [];
  #closed = false;
  #copies = 0;
  #redone = 0;
  #pumpEnded = false;

  constructor(options: PoolCopierOptions) {
    this.#options = options;
    this.#top = options.top;
    this.#clusters = options.clusters;
    this.#lanes = options.lanes;
    this.#local = new LocalCopier(options);
    options.runner.spawn(this.#pump(), () => {
      this.#pumpEnded = true;
    });
  }

  get capacity(): number {
    let capacity = 0;
    for (const lane of this.#lanes) capacity += lane.depth;
    return Math.max(1, capacity);
  }

  *copy(offset: number, length: number): Co<CopyOutcome> {
    const { clusterSize } = this.#clusters;
    const end = offset + length;
    const whole = offset % clusterSize === 0 && (length % clusterSize === 0 || end === this.#top.length);
    if (!whole) return yield* this.#local.copy(offset, length);
    const outcome = { dataBytes: 0, zeroBytes: 0 };
    for (let at = offset; at < end; ) {
      const wanted = alignUp(end - at, clusterSize);
      const allocation = yield* attributed("write", this.#clusters.allocate(at, wanted));
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
    yield* this.#options.source.close();
    yield* until(() => this.#pumpEnded);
    yield* this.#local.close();
  }

  statistics(): Readonly<Record<string, number | string>> {
    const workers = this.#lanes.length;
    const counts = { copies: this.#copies, "copies-redone": this.#redone, restarts: this.#options.source.restarts };
    return { copier: "pool", workers, capacity: this.capacity, ...counts };
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

  *#fill(allocation: Allocation, dataLength: number): Co<CopyOutcome> {
    const { guestOffset, length, hostOffset } = allocation;
    const copy: PendingCopy = { guestOffset, dataLength, length, hostOffset, deaths: 0, result: undefined };
    this.#waiting.push(copy);
    this.#dispatch();
    yield* until(() => copy.result !== undefined);
    const { result } = copy;
    this.#copies += 1;
    if (result?.failed !== undefined) {
      yield* this.#clusters.release(allocation);
      throw asBlockError(result.error, result.failed);
    }
    return yield* attributed("write", this.#publish(allocation, dataLength, result?.zeroMask as Uint8Array));
  }

  /** Makes the image point at the clusters with data, and gives back those that turned out to be zeros. */
  *#publish(allocation: Allocation, dataLength: number, zeroMask: Uint8Array): Co<CopyOutcome> {
    const { clusterSize } = this.#clusters;
    const { guestOffset, hostOffset } = allocation;
    let dataBytes = 0;
    for (let first = 0; first < zeroMask.length; ) {
      const zero = zeroMask[first] === 1;
      let end = first + 1;
      while (end < zeroMask.length && (zeroMask[end] === 1) === zero) end += 1;
      const start = first * clusterSize;
      const length = (end - first) * clusterSize;
      const part = { guestOffset: guestOffset + start, length, hostOffset: hostOffset + start };
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
    return this.#isHopeless(copy) || this.#lanes.some((lane) => lane.hasSlot);
  }

  #isHopeless(copy: PendingCopy): boolean {
    const { source } = this.#options;
    return copy.deaths >= DEATHS_MAX || (this.#lanes.length === 0 && source.starting === 0);
  }

  #dispatch(): void {
    for (let copy = this.#waiting[0]; copy !== undefined; copy = this.#waiting[0]) {
      if (this.#isHopeless(copy)) {
        const error = new BlockError("EIO", "the worker threads that copied this range have died");
        copy.result = { failed: "read", error };
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
