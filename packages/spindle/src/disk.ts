/**
 * An open disk: what `openDisk` gives. Requests may be made side by side; each goes through the node's tracker like a
 * guest's. Closing the disk cancels its jobs, waits for its requests, and closes the whole chain.
 */
import { BlockError, type Co, isBlockError, transferBytes } from "@spindle/base";
import {
  Backend,
  type BlockNode,
  type BlockRequest,
  type DirtyBitmap,
  type DirtyBitmaps,
  type InternalSnapshot,
  type InternalSnapshots,
  IoVector,
  type NewBitmap,
  type Preallocation,
  skipFilters,
} from "@spindle/block";
import { type MapExtent, mapExtentAt, mergeExtents, namedLayers } from "./disk-map.ts";
import { type ImageInfo, nodeImageInfo } from "./image-info.ts";
import type { Session } from "./session.ts";
import { StreamJob, type StreamJobOptions } from "./stream-job.ts";

export interface RequestOptions {
  /**
   * A request that still waits for its turn is given up; one whose I/O has begun completes. The promise is rejected with
   * the signal's reason in the first case only.
   */
  readonly signal?: AbortSignal;
}

export interface WriteOptions extends RequestOptions {
  /** The write is durable when it completes. */
  readonly fua?: boolean;
}

export interface WriteZeroesOptions extends WriteOptions {
  /** The space may be given back. */
  readonly mayUnmap?: boolean;
}

export interface ResizeOptions {
  /** The disk may get shorter: what is beyond its new end is lost. */
  readonly shrink?: boolean;
  /** What is done for the space of what is added; default `off`. */
  readonly preallocation?: Preallocation;
}

export interface MapOptions {
  /** Bytes; the start of the disk when absent. */
  readonly offset?: number;
  /** Bytes; to the end of the disk when absent. */
  readonly length?: number;
  readonly signal?: AbortSignal;
}

export class Disk implements AsyncDisposable {
  /** The image's file name, as it was given. */
  readonly filename: string;
  readonly #session: Session;
  readonly #backend: Backend;
  readonly #pending: Set<Promise<unknown>> = new Set();
  #jobCount = 0;
  #closed: Promise<void> | undefined;

  /** Made by `openDisk`; owns the session. */
  constructor(session: Session, node: BlockNode, filename: string) {
    this.#session = session;
    this.#backend = new Backend(node, session.runner, session.environment.clock, session.thread);
    this.filename = filename;
  }

  /** Bytes. */
  get length(): number {
    return this.#backend.length;
  }

  get readOnly(): boolean {
    return this.#backend.readOnly;
  }

  /**
   * Reads `target.length` bytes, or as many as the number says, from `offset` on.
   * @returns the buffer: the one given, or a new one
   * @throws {BlockError} EINVAL beyond the end of the disk, EIO and the like from storage.
   */
  async read(offset: number, target: number | Uint8Array, options: RequestOptions = {}): Promise<Uint8Array> {
    const buffer = typeof target === "number" ? this.#allocate(offset, target) : target;
    await this.#request({ operation: "read", offset, vector: IoVector.of(buffer) }, options);
    return buffer;
  }

  /**
   * Writes all of `bytes` at `offset`. The buffer must not change until the promise settles.
   * @throws {BlockError} EINVAL beyond the end of the disk, EROFS, ENOSPC and the like.
   */
  async write(offset: number, bytes: Uint8Array, options: WriteOptions = {}): Promise<void> {
    const flags = { fua: options.fua === true };
    await this.#request({ operation: "write", offset, vector: IoVector.of(bytes), flags }, options);
  }

  /** Makes a range read as zeros. */
  async writeZeroes(offset: number, length: number, options: WriteZeroesOptions = {}): Promise<void> {
    const flags = { fua: options.fua === true, mayUnmap: options.mayUnmap === true };
    await this.#request({ operation: "write-zeroes", offset, length, flags }, options);
  }

  /** Gives the space of a range back where the format can; it reads as zeros or as before. */
  async discard(offset: number, length: number, options: RequestOptions = {}): Promise<void> {
    await this.#request({ operation: "discard", offset, length }, options);
  }

  /** Makes every write that has completed durable. */
  async flush(options: RequestOptions = {}): Promise<void> {
    await this.#request({ operation: "flush" }, options);
  }

  /**
   * Changes the length of the disk. Other requests wait meanwhile. What is added reads as zeros.
   * @param length bytes; a multiple of 512 for formats other than raw
   * @throws {BlockError} EPERM when the disk would get shorter and `shrink` does not allow it, ENOTSUP when the format
   *   cannot change its length, or not with this preallocation.
   */
  async resize(length: number, options: ResizeOptions = {}): Promise<void> {
    const { shrink = false, preallocation = "off" } = options;
    if (length < this.length && !shrink)
      throw new BlockError("EPERM", "Use the --shrink option to perform a shrink operation.");
    await this.#run(this.#backend.node.truncate(length, preallocation));
  }

  /** The states of the disk that its image keeps inside of itself, in the image's order. */
  snapshots(): readonly InternalSnapshot[] {
    this.#checkOpen();
    return skipFilters(this.#backend.node).driver.snapshots?.list() ?? [];
  }

  /**
   * Keeps the disk as it is now. Other requests wait meanwhile.
   * @throws {BlockError} ENOTSUP when the format keeps no snapshots, EINVAL when a cluster would have too many users, EBUSY
   *   while a stream fills the disk.
   */
  async createSnapshot(name: string): Promise<void> {
    const now = Date.now();
    const nanoseconds = (now % 1000) * 1_000_000;
    await this.#changeSnapshots((snapshots) => snapshots.create(name, Math.floor(now / 1000), nanoseconds));
  }

  /**
   * Makes the disk what it was, length and content.
   * @throws {BlockError} ENOENT when no snapshot has this id, EBUSY when there are dirty bitmaps, which could not follow, and
   *   while a stream fills the disk.
   */
  async applySnapshot(id: string): Promise<void> {
    if (this.bitmaps().length > 0) throw new BlockError("EBUSY", "Device has active dirty bitmaps");
    await this.#changeSnapshots((snapshots) => snapshots.apply(id));
  }

  /**
   * Gives a snapshot up, and the space that nothing else uses.
   * @throws {BlockError} ENOENT when none has this id, EBUSY while a stream fills the disk.
   */
  async removeSnapshot(id: string): Promise<void> {
    await this.#changeSnapshots((snapshots) => snapshots.remove(id));
  }

  /** The dirty bitmaps of the disk, in the order in which they were made; those of the image first. */
  bitmaps(): readonly DirtyBitmap[] {
    this.#checkOpen();
    return skipFilters(this.#backend.node).bitmaps.list();
  }

  /**
   * Begins to note what is written. A persistent bitmap is kept in the image when the disk is closed.
   * @throws {BlockError} EEXIST, EINVAL for a name or granularity that cannot be, ENOTSUP when the image keeps none.
   */
  async addBitmap(bitmap: NewBitmap): Promise<void> {
    await this.#changeBitmaps(function* (bitmaps) {
      bitmaps.add(bitmap);
    });
  }

  /** @throws {BlockError} ENOENT. */
  async removeBitmap(name: string): Promise<void> {
    await this.#changeBitmaps((bitmaps) => bitmaps.remove(name));
  }

  /** Nothing is marked any more. @throws {BlockError} ENOENT, EINVAL for one that was left in use. */
  async clearBitmap(name: string): Promise<void> {
    await this.#changeBitmaps(function* (bitmaps) {
      bitmaps.findUsable(name).clear();
    });
  }

  /** From now on writes mark it, or do not. @throws {BlockError} ENOENT, EINVAL for one that was left in use. */
  async enableBitmap(name: string, enabled: boolean): Promise<void> {
    await this.#changeBitmaps(function* (bitmaps) {
      bitmaps.findUsable(name).enabled = enabled;
    });
  }

  /**
   * Marks in a bitmap what another one has marked, of this disk or of another one.
   * @throws {BlockError} ENOENT, EINVAL for one that was left in use, or when the disks differ in length.
   */
  async mergeBitmap(name: string, source: string, from: Disk = this): Promise<void> {
    const other = skipFilters(from.#backend.node).bitmaps;
    await this.#changeBitmaps((bitmaps) => bitmaps.merge(name, [{ bitmaps: other, name: source }]));
  }

  /** The runs of the disk, one after the other, and where each stands in the chain. */
  async *map(options: MapOptions = {}): AsyncGenerator<MapExtent, void, void> {
    const { offset = 0, length = Math.max(0, this.length - offset), signal } = options;
    const end = Math.min(offset + length, this.length);
    const layers = namedLayers(this.#backend.node, this.filename);
    let run: MapExtent | undefined;
    for (let start = offset; start < end; ) {
      signal?.throwIfAborted();
      const next: MapExtent = await this.#run(mapExtentAt(layers, start, end - start));
      const merged: MapExtent | undefined = run === undefined ? next : mergeExtents(run, next);
      if (merged === undefined) yield run as MapExtent;
      run = merged ?? next;
      start += next.length;
    }
    if (run !== undefined) yield run;
  }

  /** What `qemu-img info` tells, with its JSON keys. */
  async info(): Promise<ImageInfo> {
    this.#checkOpen();
    return nodeImageInfo(this.#backend.node, this.filename);
  }

  /**
   * Fills the image from its backing chain while the disk is in use, and then drops the chain. Await the job for its
   * result, or iterate over it for its progress.
   */
  stream(options: StreamJobOptions = {}): StreamJob {
    this.#checkOpen();
    const id = `stream${this.#jobCount}`;
    this.#jobCount += 1;
    const job = new StreamJob(this.#session, this.#backend.node, id, options);
    this.#hold(job.settled());
    return job;
  }

  /**
   * Gives back space of the image that nothing refers to, as a crash leaves it. Other requests wait meanwhile.
   * @returns how many clusters it was
   * @throws {BlockError} EIO when the image's tables contradict themselves; nothing was changed then.
   */
  async reclaimLeaks(): Promise<number> {
    const node = skipFilters(this.#backend.node);
    return await this.#run(node.exclusively(() => reclaim(node)));
  }

  /** Cancels the disk's jobs, waits for its requests, makes what was written durable, and closes the chain. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    try {
      await this.#session.run(this.#session.jobs.cancelAll());
      while (this.#pending.size > 0) await Promise.allSettled(this.#pending);
      this.#backend.close();
    } finally {
      await this.#session.close();
    }
  }

  async #changeSnapshots(change: (snapshots: InternalSnapshots) => Co<void>): Promise<void> {
    const node = skipFilters(this.#backend.node);
    const { snapshots } = node.driver;
    if (snapshots === undefined)
      throw new BlockError("ENOTSUP", `'${node.driver.name}' images keep no snapshots`, { node: node.name });
    if (node.readOnly) throw new BlockError("EROFS", "Block node is read-only", { node: node.name });
    node.checkIdle();
    await this.#run(node.exclusively(() => change(snapshots)));
  }

  async #changeBitmaps(change: (bitmaps: DirtyBitmaps) => Co<void>): Promise<void> {
    const node = skipFilters(this.#backend.node);
    if (node.readOnly) throw new BlockError("EROFS", "Block node is read-only", { node: node.name });
    await this.#run(node.exclusively(() => change(node.bitmaps)));
  }

  #allocate(offset: number, length: number): Uint8Array {
    const fits = Number.isSafeInteger(length) && length >= 0 && offset + length <= this.length;
    if (fits) return transferBytes(length);
    throw new BlockError("EINVAL", `read beyond the end of '${this.filename}'`, { operation: "read", offset, length });
  }

  async #request(request: BlockRequest, { signal }: RequestOptions): Promise<void> {
    if (signal === undefined) return await this.#run(this.#backend.co(request));
    signal.throwIfAborted();
    const { runner } = this.#session;
    const wake = (): void => runner.wake();
    signal.addEventListener("abort", wake);
    try {
      await this.#run(this.#backend.co(request, () => signal.aborted));
    } catch (error) {
      if (signal.aborted && isBlockError(error, "ECANCELED")) throw signal.reason;
      throw error;
    } finally {
      signal.removeEventListener("abort", wake);
    }
  }

  #run<T>(co: Co<T>): Promise<T> {
    this.#checkOpen();
    const running = this.#session.run(co);
    this.#hold(running);
    return running;
  }

  /** Closing waits for it. */
  #hold(promise: Promise<unknown>): void {
    this.#pending.add(promise);
    const over = (): void => void this.#pending.delete(promise);
    promise.then(over, over);
  }

  #checkOpen(): void {
    if (this.#closed !== undefined) throw new BlockError("ENOMEDIUM", `the disk '${this.filename}' is closed`);
  }
}

function* reclaim({ driver }: BlockNode): Co<number> {
  return driver.reclaimLeaks === undefined ? 0 : yield* driver.reclaimLeaks();
}
