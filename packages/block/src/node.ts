/**
 * A node of the block graph: a driver, its children, and the tracker that knows every request in flight. All requests,
 * from a guest, a job or another node, pass through here; what they may meet is decided here and nowhere else.
 */
import { alignDown, alignUp, assert, BlockError, type Co } from "@spindle/base";
import { LockKind, type RangeLock } from "@spindle/shared-memory";
import { readAligned, writeAligned, zeroAligned } from "./aligned-io.ts";
import type { DebugEvent } from "./debug-event.ts";
import { DirtyBitmaps } from "./dirty-bitmaps.ts";
import type { BlockDriver, Preallocation, WriteFlags } from "./driver.ts";
import type { Extent } from "./extent.ts";
import type { IoVector } from "./io-vector.ts";
import type { MappingCache } from "./mapping-cache.ts";
import type { CacheOptions } from "./registry.ts";
import type { StorageClaim } from "./storage-claim.ts";
import { TrackedRange } from "./tracked-range.ts";

/** The nodes below a node. A format reads its own image from `file` and what it has not from `backing`. */
export interface Children {
  file: BlockNode | null;
  backing: BlockNode | null;
  /** Where a format keeps its data when that is not in `file`. */
  data?: BlockNode;
}

export interface NodeOptions {
  readonly name: string;
  readonly driver: BlockDriver;
  readonly children: Children;
  readonly readOnly: boolean;
  /** Tracks the requests of this node; null for nodes that only one parent uses, which orders its own requests. */
  readonly tracker: RangeLock | null;
  /** Whether the driver passes requests through to `file` and has no content of its own. */
  readonly filter?: boolean;
  /** The image's file name, as it was given or resolved. */
  readonly filename?: string | null;
  /** Nobody has told the format: it was found by looking. */
  readonly probed?: boolean;
  /** What was said for it, or for a node above it. */
  readonly cache?: CacheOptions;
}

/** The slot of a request that no tracker knows. */
const UNTRACKED = -1;

/** The end of a range that covers every disk. */
const WHOLE_DISK = Number.MAX_SAFE_INTEGER;

export class BlockNode {
  readonly name: string;
  readonly driver: BlockDriver;
  readonly children: Children;
  readonly readOnly: boolean;
  readonly filter: boolean;
  readonly tracker: RangeLock | null;
  readonly filename: string | null;
  readonly probed: boolean;
  /** What has been written: every write of this node marks those that are enabled. */
  readonly bitmaps: DirtyBitmaps;
  readonly cache: CacheOptions;
  /** Why the node may not be changed or removed now, such as `block device is in use by block job: stream`. */
  busyReason: string | null = null;
  /** Nodes and backends that use this one; a node in use is not removed. */
  parents = 0;
  /** Where data movers on other threads find clusters; set while there are any. */
  mappingCache: MappingCache | null = null;
  readonly #lengthListeners: Set<(length: number) => void> = new Set();
  #inFlight = 0;

  constructor(options: NodeOptions) {
    this.name = options.name;
    this.driver = options.driver;
    this.children = options.children;
    this.readOnly = options.readOnly;
    this.filter = options.filter === true;
    this.tracker = options.tracker;
    this.filename = options.filename ?? null;
    this.probed = options.probed === true;
    const { clusterSize } = this.driver;
    this.bitmaps =
      this.driver.bitmaps ?? new DirtyBitmaps({ name: this.name, clusterSize, length: () => this.length }, null);
    this.cache = options.cache ?? {};
  }

  /** The length of the disk in bytes. */
  get length(): number {
    return this.driver.length();
  }

  /**
   * Calls the listener with every new length, in bytes, before any request goes on, until the returned function is
   * called. It must not throw. A node below others is not told when they change, nor they when it does.
   */
  onLength(listener: (length: number) => void): () => void {
    this.#lengthListeners.add(listener);
    return () => this.#lengthListeners.delete(listener);
  }

  /** Requests are tracked rounded to this many bytes. */
  get trackingUnit(): number {
    return Math.max(this.driver.clusterSize, this.driver.requestAlignment);
  }

  /**
   * Tells other programs what this node's user is about to do, see {@link StorageClaim}.
   * @throws {BlockError} EAGAIN when another program's use is in the way.
   */
  *claim(claim: StorageClaim): Co<void> {
    if (this.driver.claim !== undefined) yield* this.driver.claim(claim);
    else if (this.children.file !== null) yield* this.children.file.claim(claim);
  }

  /**
   * Registers a range, rounded out to clusters, and waits for what it may not meet.
   * Release it exactly once.
   */
  *track(kind: LockKind, offset: number, length: number, canceled?: () => boolean): Co<TrackedRange> {
    const start = alignDown(offset, this.trackingUnit);
    const end = alignUp(offset + length, this.trackingUnit);
    this.#inFlight += 1;
    try {
      const slot = this.tracker === null ? UNTRACKED : yield* this.tracker.acquire(kind, start, end, canceled);
      this.#forgetPlaces(kind, start, end - start);
      return new TrackedRange(this, slot, start, end - start);
    } catch (error) {
      this.#inFlight -= 1;
      throw error;
    }
  }

  /** The same without waiting; null when something is in the way. */
  tryTrack(kind: LockKind, offset: number, length: number): TrackedRange | null {
    const start = alignDown(offset, this.trackingUnit);
    const end = alignUp(offset + length, this.trackingUnit);
    const slot = this.tracker === null ? UNTRACKED : this.tracker.tryAcquire(kind, start, end);
    if (this.tracker !== null && slot < 0) return null;
    this.#inFlight += 1;
    this.#forgetPlaces(kind, start, end - start);
    return new TrackedRange(this, slot, start, end - start);
  }

  /** Requests of this thread that are in flight on this node. */
  get requestsInFlight(): number {
    return this.#inFlight;
  }

  /** Ends a tracked request; {@link TrackedRange.release} calls it. */
  untrack(slot: number): void {
    this.#inFlight -= 1;
    if (slot !== UNTRACKED) this.tracker?.release(slot);
  }

  /** Tells a driver that wants to know of it what its user is about to do; see {@link BlockDriver.debugEvent}. */
  *tell(event: DebugEvent): Co<void> {
    if (this.driver.debugEvent !== undefined) yield* this.driver.debugEvent(event);
  }

  /** Reads `vector.length` bytes at `offset`. */
  *read(offset: number, vector: IoVector, canceled?: () => boolean): Co<void> {
    this.#checkRange("read", offset, vector.length);
    if (vector.length === 0) return;
    const range = yield* this.track(LockKind.read, offset, vector.length, canceled);
    try {
      this.#checkRange("read", offset, vector.length);
      yield* readAligned(this.driver, offset, vector);
    } finally {
      range.release();
    }
  }

  /** Writes the vector's bytes at `offset`. */
  *write(offset: number, vector: IoVector, flags: WriteFlags = {}, canceled?: () => boolean): Co<void> {
    this.#checkWritable("write", offset, vector.length);
    if (vector.length === 0) {
      if (flags.fua === true) yield* this.flush();
      return;
    }
    if (!(yield* this.#writeShared(offset, vector, flags, canceled)))
      yield* this.#writeExclusive(offset, vector, flags, canceled);
    if (flags.fua === true) yield* this.flush();
  }

  /**
   * Writes one cluster compressed; see {@link BlockDriver.writeCompressed}.
   * @throws {BlockError} ENOTSUP when the driver cannot compress.
   */
  *writeCompressed(offset: number, vector: IoVector): Co<void> {
    this.#checkWritable("compressed write", offset, vector.length);
    const { driver } = this;
    if (driver.writeCompressed === undefined)
      throw new BlockError("ENOTSUP", `'${driver.name}' images cannot be compressed`, { node: this.name });
    const range = yield* this.track(LockKind.exclusiveWrite, offset, vector.length);
    try {
      this.bitmaps.mark(offset, vector.length);
      yield* driver.writeCompressed(offset, vector);
    } finally {
      range.release();
    }
  }

  /**
   * Stores whole clusters that are compressed already; see {@link BlockDriver.writePacked}.
   * @throws {BlockError} ENOTSUP when the driver has no compressed clusters.
   */
  *writePacked(offset: number, clusters: readonly Uint8Array[]): Co<void> {
    const { driver } = this;
    const length = Math.min(clusters.length * driver.clusterSize, this.length - offset);
    this.#checkWritable("compressed write", offset, length);
    if (driver.writePacked === undefined)
      throw new BlockError("ENOTSUP", `'${driver.name}' images cannot be compressed`, { node: this.name });
    const range = yield* this.track(LockKind.exclusiveWrite, offset, length);
    try {
      this.bitmaps.mark(offset, length);
      yield* driver.writePacked(offset, clusters);
    } finally {
      range.release();
    }
  }

  /**
   * Reads the state of a machine, which stands in the image behind the disk, from byte `offset` of it on.
   * @throws {BlockError} ENOTSUP when images of this format have none.
   */
  *readMachineState(offset: number, vector: IoVector): Co<void> {
    const { driver } = this;
    if (driver.readMachineState !== undefined) return yield* driver.readMachineState(offset, vector);
    yield* this.#machineStateBelow("read").readMachineState(offset, vector);
  }

  /** Writes to it while nothing else is in flight. @throws {BlockError} as {@link readMachineState} does */
  *writeMachineState(offset: number, vector: IoVector): Co<void> {
    if (this.readOnly) throw this.#error("EROFS", "Block node is read-only", "write", offset, vector.length);
    const { driver } = this;
    if (driver.writeMachineState === undefined)
      return yield* this.#machineStateBelow("write").writeMachineState(offset, vector);
    yield* this.exclusively(function* () {
      yield* driver.writeMachineState?.(offset, vector) ?? [];
    });
  }

  #machineStateBelow(operation: string): BlockNode {
    if (this.children.file !== null) return this.children.file;
    throw this.#error("ENOTSUP", "the image cannot hold the state of a machine", operation, 0, 0);
  }

  /** Makes a range read as zeros. */
  *writeZeroes(offset: number, length: number, flags: WriteFlags = {}, canceled?: () => boolean): Co<void> {
    this.#checkWritable("write zeroes", offset, length);
    if (length > 0) {
      const range = yield* this.track(LockKind.exclusiveWrite, offset, length, canceled);
      try {
        this.#checkRange("write zeroes", offset, length);
        this.bitmaps.mark(offset, length);
        yield* zeroAligned(this, offset, length, flags);
      } finally {
        range.release();
      }
    }
    if (flags.fua === true) yield* this.flush();
  }

  /** Gives the space of a range back where the driver can; part units at the ends are left as they are. */
  *discard(offset: number, length: number, canceled?: () => boolean): Co<void> {
    this.#checkWritable("discard", offset, length);
    const unit = this.driver.requestAlignment;
    const start = alignUp(offset, unit);
    const end = offset + length === this.length ? this.length : alignDown(offset + length, unit);
    if (end <= start) return;
    const range = yield* this.track(LockKind.exclusiveWrite, start, end - start, canceled);
    try {
      this.#checkRange("discard", offset, length);
      this.bitmaps.mark(start, end - start);
      yield* this.driver.discard(start, end - start);
    } finally {
      range.release();
    }
  }

  /** Makes every write that completed before this call durable. */
  *flush(): Co<void> {
    this.#inFlight += 1;
    try {
      yield* this.driver.flush();
    } finally {
      this.#inFlight -= 1;
    }
  }

  /** Makes every request that completed before this call survive this process, though not power loss. */
  *writeMetadata(): Co<void> {
    if (this.driver.writeMetadata === undefined || this.readOnly) return;
    this.#inFlight += 1;
    try {
      yield* this.driver.writeMetadata();
    } finally {
      this.#inFlight -= 1;
    }
  }

  /** What this layer alone says of a range; see {@link BlockDriver.blockStatus}. */
  *blockStatus(offset: number, length: number): Co<Extent> {
    this.#checkRange("block status", offset, length);
    assert(length > 0, "block status of nothing");
    const extent = yield* this.driver.blockStatus(offset, length);
    // A protocol driver does not know its node: its host offsets count in this one.
    return extent.hostOffset === undefined || extent.file !== undefined ? extent : { ...extent, file: this };
  }

  /** @throws {BlockError} EBUSY while a job has the node. */
  checkIdle(): void {
    if (this.busyReason !== null)
      throw new BlockError("EBUSY", `Node '${this.name}' is busy: ${this.busyReason}`, { node: this.name });
  }

  /** Changes the length while no other request is in flight. A stream into this node goes on with the new length. */
  *truncate(length: number, preallocation: Preallocation = "off"): Co<void> {
    if (this.readOnly) throw this.#error("EROFS", "Block node is read-only", "truncate", 0, length);
    yield* this.exclusively(() => this.bitmaps.resize(length, this.driver.truncate(length, preallocation)));
  }

  /**
   * Runs `change` while nothing else is in flight on this node: waits for all requests, and holds new ones back.
   * This is what QEMU calls a drained section.
   */
  *exclusively<T>(change: () => Co<T>): Co<T> {
    this.#inFlight += 1;
    const slot = this.tracker === null ? UNTRACKED : yield* this.tracker.acquire(LockKind.change, 0, WHOLE_DISK);
    this.#forgetPlaces(LockKind.change, 0, WHOLE_DISK);
    const before = this.length;
    try {
      return yield* change();
    } finally {
      if (this.length !== before) for (const listener of this.#lengthListeners) listener(this.length);
      this.untrack(slot);
    }
  }

  /**
   * Whoever holds clusters exclusively may move them. Their places are forgotten before anything is freed, so that a
   * request which still finds an old place is older than the freeing, and keeps the place from being used again; and
   * nobody can note a place while the range is held.
   */
  #forgetPlaces(kind: LockKind, offset: number, length: number): void {
    if (kind >= LockKind.exclusiveWrite) this.mappingCache?.invalidate(offset, length);
  }

  /** @returns false when the write changes metadata and needs the clusters for itself. */
  *#writeShared(offset: number, vector: IoVector, flags: WriteFlags, canceled?: () => boolean): Co<boolean> {
    const unit = this.driver.requestAlignment;
    if (offset % unit !== 0 || vector.length % unit !== 0) return false;
    const range = yield* this.track(LockKind.write, offset, vector.length, canceled);
    try {
      this.#checkRange("write", offset, vector.length);
      if (this.driver.writesInPlace !== undefined) {
        if (!(yield* this.driver.writesInPlace(offset, vector.length))) return false;
      }
      this.bitmaps.mark(offset, vector.length);
      yield* this.driver.write(offset, vector, flags);
      return true;
    } finally {
      range.release();
    }
  }

  *#writeExclusive(offset: number, vector: IoVector, flags: WriteFlags, canceled?: () => boolean): Co<void> {
    const range = yield* this.track(LockKind.exclusiveWrite, offset, vector.length, canceled);
    try {
      this.#checkRange("write", offset, vector.length);
      this.bitmaps.mark(offset, vector.length);
      yield* writeAligned(this, offset, vector, flags);
    } finally {
      range.release();
    }
  }

  #checkWritable(operation: string, offset: number, length: number): void {
    if (this.readOnly) throw this.#error("EROFS", "Block node is read-only", operation, offset, length);
    this.#checkRange(operation, offset, length);
  }

  /** Once before it is tracked, and once more then: what it waited for may have made the disk shorter. */
  #checkRange(operation: string, offset: number, length: number): void {
    const valid = Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 && length >= 0;
    // What can grow has no end that a request could be beyond: asking it for its length would cost a system call.
    const end = this.driver.growable === true ? Number.MAX_SAFE_INTEGER : this.length;
    if (valid && offset + length <= end) return;
    throw this.#error("EINVAL", `${operation} beyond the end of '${this.name}'`, operation, offset, length);
  }

  #error(
    code: "EROFS" | "EINVAL" | "ENOTSUP",
    message: string,
    operation: string,
    offset: number,
    length: number,
  ): BlockError {
    return new BlockError(code, message, { node: this.name, operation, offset, length });
  }
}
