/**
 * The owner's end of disk ports: does the requests that ports hand over, and notes in the mapping cache where the
 * clusters stand, so that the next request of the kind need not come.
 */
import { alignDown, alignUp, assert, type Co, isBlockError, until } from "@spindle/base";
import { LockKind, RangeLock, type RangeLockHandle, type Thread } from "@spindle/shared-memory";
import { type ChainExtent, chainStatus } from "./chain.ts";
import type { DiskPortHandle } from "./disk-port.ts";
import { IoVector } from "./io-vector.ts";
import { MappingCache, ZERO_PLACE } from "./mapping-cache.ts";
import type { BlockNode } from "./node.ts";
import { FLAG_FUA, FLAG_MAY_UNMAP, PORT_ERRNOS, PortChannel, PortOperation } from "./port-channel.ts";
import { SharedLength } from "./shared-length.ts";

/** Bytes of the disk that one entry of the mapping cache covers when the image has no clusters. */
const PLAIN_UNIT = 64 * 1024;

/** Entries that one look at the mapping fills at most. */
const FILL_UNITS_MAX = 64;

const EIO_INDEX = PORT_ERRNOS.indexOf("EIO");

/** Starts coroutines on the owner's thread. */
export interface Spawner {
  spawn(co: Co<void>, settled: (error: unknown) => void): void;
}

export interface PortServerOptions {
  /**
   * Writes and zeros outlive this process when they have completed, though not the host's loss of power before a flush: for
   * guests that go on when the process is killed and started again. Default false.
   */
  readonly keepsCompleted?: boolean;
}

export class PortServer {
  readonly #node: BlockNode;
  readonly #thread: Thread;
  readonly #runner: Spawner;
  readonly #mapping: MappingCache;
  readonly #tracker: RangeLockHandle;
  readonly #length: SharedLength;
  readonly #unsubscribe: () => void;
  readonly #keeps: boolean;
  /** Requests that wanted their metadata written, those whose is, and whether some is being written. */
  #wanted = 0;
  #kept = 0;
  #writing = false;
  #closed = false;
  #serving = 0;

  /**
   * @param node the ports share its tracker; read-only nodes have none, and there nobody is in anybody's way
   * @param thread the owner's thread
   */
  constructor(node: BlockNode, thread: Thread, runner: Spawner, options: PortServerOptions = {}) {
    assert(node.mappingCache === null, "a node has one port server");
    this.#node = node;
    this.#tracker = node.tracker?.handle ?? RangeLock.create();
    this.#thread = thread;
    this.#runner = runner;
    this.#keeps = options.keepsCompleted === true && node.driver.writeMetadata !== undefined && !node.readOnly;
    const unit = node.trackingUnit > 1 ? node.trackingUnit : PLAIN_UNIT;
    this.#mapping = new MappingCache(MappingCache.create(unit));
    node.mappingCache = this.#mapping;
    this.#length = new SharedLength(SharedLength.create(node.length));
    this.#unsubscribe = node.onLength((length) => {
      this.#length.value = length;
    });
    node.parents += 1;
  }

  /** Makes a port for another thread, and serves it until {@link close}. */
  open(): DiskPortHandle {
    const handle = PortChannel.create();
    const channel = new PortChannel(handle);
    this.#serving += 1;
    this.#runner.spawn(this.#serve(channel), (error) => {
      assert(error === undefined, `a port's server ended: ${String(error)}`);
      this.#serving -= 1;
    });
    return {
      channel: handle,
      tracker: this.#tracker,
      mapping: this.#mapping.handle,
      ownerThread: this.#thread.index,
      length: this.#length.handle,
      readOnly: this.#node.readOnly,
      trackingUnit: this.#node.trackingUnit,
      direct: isDirect(this.#node),
    };
  }

  /** Stops serving. The threads behind the ports have stopped using them. */
  *close(): Co<void> {
    this.#closed = true;
    this.#thread.ring();
    yield* until(() => this.#serving === 0);
    this.#unsubscribe();
    this.#node.mappingCache = null;
    this.#node.parents -= 1;
  }

  *#serve(channel: PortChannel): Co<void> {
    const record = new Float64Array(5);
    while (!this.#closed) {
      while (channel.requests.pop(record)) {
        const [slot, operation, offset, length, flags] = record as unknown as [
          number,
          PortOperation,
          number,
          number,
          number,
        ];
        this.#serving += 1;
        const carriesData = operation === PortOperation.read || operation === PortOperation.write;
        const data = channel.data(slot, carriesData ? length : 0);
        this.#runner.spawn(this.#execute(operation, offset, length, flags, data), (error) => {
          this.#serving -= 1;
          channel.replies.push([slot, errorIndex(error)]);
          this.#thread.table.ring(channel.clientThread);
        });
      }
      yield* until(() => this.#closed || channel.requests.length > 0);
    }
  }

  *#execute(operation: PortOperation, offset: number, length: number, flags: number, data: Uint8Array): Co<void> {
    const node = this.#node;
    const writeFlags = { mayUnmap: (flags & FLAG_MAY_UNMAP) !== 0, fua: (flags & FLAG_FUA) !== 0 };
    switch (operation) {
      case PortOperation.read:
        yield* node.read(offset, IoVector.of(data));
        return yield* this.#fill(offset, length);
      case PortOperation.write:
        yield* node.write(offset, IoVector.of(data), writeFlags);
        if (this.#keeps) yield* this.#keep();
        return yield* this.#fill(offset, length);
      case PortOperation.writeZeroes:
        yield* node.writeZeroes(offset, length, writeFlags);
        if (this.#keeps) yield* this.#keep();
        return;
      case PortOperation.discard:
        return yield* node.discard(offset, length);
      default:
        return yield* node.flush();
    }
  }

  /** Makes the metadata of all that has completed outlive this process. Requests that come together share the work. */
  *#keep(): Co<void> {
    this.#wanted += 1;
    const mine = this.#wanted;
    while (this.#kept < mine) {
      if (this.#writing) {
        yield { kind: "condition", ready: () => this.#kept >= mine || !this.#writing };
        continue;
      }
      this.#writing = true;
      const covered = this.#wanted;
      try {
        yield* this.#node.writeMetadata();
        this.#kept = covered;
      } finally {
        this.#writing = false;
      }
    }
  }

  /**
   * Notes where the units of a range stand. A write range over them keeps everybody away who could move them; when one
   * is there already, nothing is noted.
   */
  *#fill(offset: number, length: number): Co<void> {
    const { unit } = this.#mapping;
    const start = alignDown(offset, unit);
    const end = alignDown(this.#node.length, unit);
    const needed = Math.min(alignUp(offset + length, unit), end) - start;
    if (needed <= 0) return;
    const ahead = Math.min(Math.max(start + needed, start + unit * FILL_UNITS_MAX), end) - start;
    const range =
      this.#node.tryTrack(LockKind.write, start, ahead) ?? this.#node.tryTrack(LockKind.write, start, needed);
    if (range === null) return;
    try {
      // Whoever finds a place overwrites it without asking: the metadata that leads to it must outlive the write.
      if (this.#keeps) yield* this.#keep();
      yield* this.#fillTracked(alignUp(range.offset, unit), alignDown(range.offset + range.length, unit));
    } finally {
      range.release();
    }
  }

  *#fillTracked(start: number, end: number): Co<void> {
    const { unit } = this.#mapping;
    for (let offset = start; offset < end; ) {
      const extent = yield* chainStatus(this.#node, null, offset, end - offset);
      const whole = alignDown(extent.length, unit);
      const descriptor = extent.file?.driver.fileDescriptor;
      const plain = this.#isPlain(extent) && descriptor !== undefined;
      // A filter has a say in every request: nothing may go around it.
      if ((plain || this.#staysZero(extent)) && !extent.filtered) {
        const inPlace = extent.depth === 0 && plain && whole > 0 && !this.#node.readOnly;
        const writable = inPlace && (yield* this.#writesInPlace(offset, whole));
        for (let at = 0; at < whole; at += unit) {
          const hostOffset = plain ? (extent.hostOffset as number) + at : 0;
          this.#mapping.set((offset + at) / unit, {
            descriptor: plain ? descriptor : ZERO_PLACE,
            hostOffset,
            writable: writable && this.#marksNothing(offset + at, extent.file, hostOffset),
          });
        }
      }
      offset += Math.max(whole, unit);
    }
  }

  /** Whether the owner need not hear of a write: all dirty bitmaps that it would mark are marked there. */
  #marksNothing(offset: number, file: BlockNode | undefined, hostOffset: number): boolean {
    const { unit } = this.#mapping;
    return this.#node.bitmaps.covers(offset, unit) && file?.bitmaps.covers(hostOffset, unit) !== false;
  }

  /** Whether what the disk shows is what stands at the extent's place. In images, zeros may have kept the space of old data. */
  #isPlain({ zero, depth, hostOffset }: ChainExtent): boolean {
    return hostOffset !== undefined && (!zero || (depth === 0 && this.#node.driver.writesInPlace === undefined));
  }

  /** Zeros become data only by an exclusive write, which makes the cache forget them; in a plain file any write does. */
  #staysZero({ zero, depth }: ChainExtent): boolean {
    return zero && (depth > 0 || this.#node.driver.writesInPlace !== undefined);
  }

  *#writesInPlace(offset: number, length: number): Co<boolean> {
    const { driver } = this.#node;
    return driver.writesInPlace === undefined || (yield* driver.writesInPlace(offset, length));
  }
}

/** Whether the image's own file is. Those of its backing files are as a rule what it is. */
function isDirect({ cache, children }: BlockNode): boolean {
  return children.file === null ? cache.direct === true : isDirect(children.file);
}

function errorIndex(error: unknown): number {
  if (error === undefined) return 0;
  const index = isBlockError(error) ? PORT_ERRNOS.indexOf(error.code) : -1;
  return index > 0 ? index : EIO_INDEX;
}
