/**
 * A disk on a thread that does not own its graph. Reads, and writes of clusters that are already there, are found in
 * the mapping cache and done here, straight between the caller's buffers and the descriptor; everything else goes to
 * the owner. Both kinds register with the node's tracker.
 */
import { alignDown, alignUp, BlockError, type Clock, type Co, decodeError, type ErrnoName } from "@spindle/base";
import { LockKind, RangeLock, type RangeLockHandle, type Thread } from "@spindle/shared-memory";
import type { Disk } from "./backend.ts";
import type { WriteFlags } from "./driver.ts";
import type { IoVector } from "./io-vector.ts";
import { MappingCache, type MappingCacheHandle, type Place, ZERO_PLACE } from "./mapping-cache.ts";
import {
  FLAG_FUA,
  FLAG_MAY_UNMAP,
  PORT_ERRNOS,
  PORT_SLOT_BYTES,
  PORT_SLOTS,
  PortChannel,
  type PortChannelHandle,
  PortOperation,
} from "./port-channel.ts";
import { SharedLength, type SharedLengthHandle } from "./shared-length.ts";

/** What the host does with descriptors of the process, from any thread. */
export interface DescriptorIo {
  read(descriptor: number, offset: number, vector: IoVector): Co<void>;
  write(descriptor: number, offset: number, vector: IoVector): Co<void>;
}

/** Everything that another thread needs to use a disk; structured-cloneable. */
export interface DiskPortHandle {
  readonly channel: PortChannelHandle;
  readonly tracker: RangeLockHandle;
  readonly mapping: MappingCacheHandle;
  readonly ownerThread: number;
  readonly length: SharedLengthHandle;
  readonly readOnly: boolean;
  readonly trackingUnit: number;
  /** The files are read and written past the page cache. */
  readonly direct: boolean;
}

/** A run of a request that one access serves, or, without a place, one that the owner has to serve. */
interface Piece {
  readonly start: number;
  length: number;
  readonly place: { readonly descriptor: number; readonly hostOffset: number } | null;
}

export class DiskPort implements Disk {
  readonly readOnly: boolean;
  readonly #length: SharedLength;
  readonly #handle: DiskPortHandle;
  readonly #thread: Thread;
  readonly #io: DescriptorIo;
  readonly #tracker: RangeLock;
  readonly #mapping: MappingCache;
  readonly #channel: PortChannel;
  readonly #freeSlots: number[] = Array.from({ length: PORT_SLOTS }, (_, slot) => slot);
  /** By slot: the reply that has come, or undefined. */
  readonly #replies: (number | undefined)[] = new Array(PORT_SLOTS).fill(undefined);
  readonly #reply = new Float64Array(2);
  readonly #place: Place = { descriptor: 0, hostOffset: 0, writable: false };

  /**
   * Connects the calling thread; a handle serves one thread.
   * @param clock measures how long requests wait for others; without one it is not measured
   */
  constructor(handle: DiskPortHandle, thread: Thread, io: DescriptorIo, clock?: Clock) {
    this.#handle = handle;
    this.#thread = thread;
    this.#io = io;
    this.#length = new SharedLength(handle.length);
    this.readOnly = handle.readOnly;
    this.#tracker = new RangeLock(handle.tracker, thread, clock);
    this.#mapping = new MappingCache(handle.mapping);
    this.#channel = new PortChannel(handle.channel);
    this.#channel.clientThread = thread.index;
  }

  /** Bytes, as the disk is now. */
  get length(): number {
    return this.#length.value;
  }

  *read(offset: number, vector: IoVector): Co<void> {
    const pieces = yield* this.#locally(LockKind.read, offset, vector);
    for (const { start, length } of pieces) {
      const target = vector.slice(start - offset, length);
      yield* this.#forward(PortOperation.read, start, length, 0, (at, data) =>
        target.slice(at, data.length).copyFrom(data),
      );
    }
  }

  *write(offset: number, vector: IoVector, flags: WriteFlags = {}): Co<void> {
    const pieces = yield* this.#locally(LockKind.write, offset, vector);
    for (const { start, length } of pieces) {
      const source = vector.slice(start - offset, length);
      yield* this.#forward(PortOperation.write, start, length, 0, (at, data) =>
        source.slice(at, data.length).copyTo(data),
      );
    }
    if (flags.fua === true) yield* this.flush();
  }

  *writeZeroes(offset: number, length: number, flags: WriteFlags = {}): Co<void> {
    const bits = (flags.mayUnmap === true ? FLAG_MAY_UNMAP : 0) + (flags.fua === true ? FLAG_FUA : 0);
    yield* this.#request(PortOperation.writeZeroes, offset, length, bits);
  }

  *discard(offset: number, length: number): Co<void> {
    yield* this.#request(PortOperation.discard, offset, length, 0);
  }

  *flush(): Co<void> {
    yield* this.#request(PortOperation.flush, 0, 0, 0);
  }

  /** Serves what the mapping cache knows, under one range, and returns the runs that are left. */
  *#locally(kind: LockKind, offset: number, vector: IoVector): Co<Piece[]> {
    // When the disk gets shorter later, no place beyond its end is known any more, and the owner refuses the request.
    if (offset + vector.length > this.length)
      throw new BlockError("EINVAL", "request beyond the end of the disk", { offset, length: vector.length });
    const unit = this.#handle.trackingUnit;
    const end = alignUp(offset + vector.length, unit);
    const slot = yield* this.#tracker.acquire(kind, alignDown(offset, unit), end);
    const left: Piece[] = [];
    try {
      for (const piece of this.#pieces(offset, vector.length, kind === LockKind.write)) {
        if (piece.place === null) left.push(piece);
        else yield* this.#access(kind, piece.place, vector.slice(piece.start - offset, piece.length));
      }
    } finally {
      this.#tracker.release(slot);
    }
    return left;
  }

  *#access(kind: LockKind, place: { descriptor: number; hostOffset: number }, vector: IoVector): Co<void> {
    if (place.descriptor === ZERO_PLACE) vector.fill(0);
    else if (kind === LockKind.read) yield* this.#io.read(place.descriptor, place.hostOffset, vector);
    else yield* this.#io.write(place.descriptor, place.hostOffset, vector);
  }

  /** Cuts a request where its bytes do not stand side by side. */
  #pieces(offset: number, length: number, forWriting: boolean): Piece[] {
    const { unit } = this.#mapping;
    const pieces: Piece[] = [];
    for (let start = offset; start < offset + length; ) {
      const unitIndex = Math.floor(start / unit);
      const run = Math.min((unitIndex + 1) * unit, offset + length) - start;
      const place = this.#find(unitIndex, start - unitIndex * unit, forWriting);
      const last = pieces.at(-1);
      if (last !== undefined && continues(last, place)) last.length += run;
      else pieces.push({ start, length: run, place });
      start += run;
    }
    return pieces;
  }

  #find(unitIndex: number, inUnit: number, forWriting: boolean): Piece["place"] {
    const place = this.#place;
    if (!this.#mapping.find(unitIndex, place) || (forWriting && !place.writable)) return null;
    return { descriptor: place.descriptor, hostOffset: place.hostOffset + inUnit };
  }

  /** Sends a request with data to the owner, cut to slots; `copy` moves the data of each cut. */
  *#forward(
    operation: PortOperation,
    offset: number,
    length: number,
    flags: number,
    copy: (at: number, data: Uint8Array) => void,
  ): Co<void> {
    for (let done = 0; done < length; ) {
      const cut = Math.min(length - done, PORT_SLOT_BYTES);
      yield* this.#request(operation, offset + done, cut, flags, (data) => copy(done, data));
      done += cut;
    }
  }

  *#request(
    operation: PortOperation,
    offset: number,
    length: number,
    flags: number,
    copy?: (data: Uint8Array) => void,
  ): Co<void> {
    // One slot may wake several who wait for one.
    while (this.#freeSlots.length === 0) yield { kind: "condition", ready: () => this.#freeSlotComes() };
    const slot = this.#freeSlots.pop() as number;
    try {
      if (operation === PortOperation.write) copy?.(this.#channel.data(slot, length));
      this.#channel.requests.push([slot, operation, offset, length, flags]);
      this.#thread.table.ring(this.#handle.ownerThread);
      yield { kind: "condition", ready: () => this.#replyComes(slot) };
      const errno = PORT_ERRNOS[this.#replies[slot] ?? 0] ?? "EIO";
      if (errno !== "") throw failure(errno, operation, offset, length);
      if (operation === PortOperation.read) copy?.(this.#channel.data(slot, length));
    } finally {
      this.#replies[slot] = undefined;
      this.#freeSlots.push(slot);
    }
  }

  #freeSlotComes(): boolean {
    return this.#freeSlots.length > 0;
  }

  #replyComes(slot: number): boolean {
    while (this.#channel.replies.pop(this.#reply)) this.#replies[this.#reply[0] as number] = this.#reply[1];
    return this.#replies[slot] !== undefined;
  }
}

function continues(piece: Piece, place: Piece["place"]): boolean {
  if (piece.place === null || place === null) return piece.place === place;
  if (piece.place.descriptor !== place.descriptor) return false;
  return place.descriptor === ZERO_PLACE || piece.place.hostOffset + piece.length === place.hostOffset;
}

function failure(code: ErrnoName, operation: PortOperation, offset: number, length: number): BlockError {
  const name = Object.entries(PortOperation).find(([, value]) => value === operation)?.[0] ?? "request";
  return decodeError({ code, message: `${name} failed: ${code}`, context: { operation: name, offset, length } });
}
