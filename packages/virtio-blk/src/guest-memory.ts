/**
 * The guest's physical memory as the device sees it: regions of buffers at guest-physical addresses. Every
 * address comes from the guest and is checked here; what is not wholly memory is answered with `undefined` or `false`.
 * The device reads the guest's words only through this class, so that a test can count the reads.
 */
import { BlockError } from "@spindle/base";

/** Regions start and end on pages, so that an address aligned for the guest is aligned for typed arrays as well. */
const PAGE_SIZE = 4096;

/**
 * A piece of guest memory. All numbers are bytes and multiples of 4096. With a SharedArrayBuffer it can be posted to other
 * threads; memory that another process shares is an ArrayBuffer on each thread.
 */
export interface GuestRegion {
  readonly guestBase: number;
  readonly memory: SharedArrayBuffer | ArrayBuffer;
  readonly byteOffset: number;
  readonly length: number;
}

/** The memory of one guest, fit to be posted to another thread. */
export interface GuestMemoryHandle {
  readonly regions: readonly GuestRegion[];
}

interface MappedRegion {
  readonly start: number;
  readonly end: number;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly halves: Uint16Array;
  readonly words: Uint32Array;
}

/**
 * A range of guest memory that was checked once. Offsets count from its start; the caller keeps inside. Plain accesses
 * are unordered; `load` and `store` are sequentially consistent and need an address that is a multiple of their width.
 */
export class GuestWindow {
  readonly #region: MappedRegion;
  readonly #base: number;

  constructor(region: MappedRegion, base: number) {
    this.#region = region;
    this.#base = base;
  }

  u8(offset: number): number {
    return this.#region.view.getUint8(this.#base + offset);
  }
  u16(offset: number): number {
    return this.#region.view.getUint16(this.#base + offset, true);
  }
  u32(offset: number): number {
    return this.#region.view.getUint32(this.#base + offset, true);
  }
  loadU16(offset: number): number {
    return Atomics.load(this.#region.halves, (this.#base + offset) / 2);
  }
  loadU32(offset: number): number {
    return Atomics.load(this.#region.words, (this.#base + offset) / 4);
  }

  setU8(offset: number, value: number): void {
    this.#region.view.setUint8(this.#base + offset, value);
  }
  setU16(offset: number, value: number): void {
    this.#region.view.setUint16(this.#base + offset, value, true);
  }
  setU32(offset: number, value: number): void {
    this.#region.view.setUint32(this.#base + offset, value, true);
  }
  /** `value` is a whole number from 0 to 2^53 - 1. */
  setU64(offset: number, value: number): void {
    this.setU32(offset, value % 2 ** 32);
    this.setU32(offset + 4, Math.floor(value / 2 ** 32));
  }
  storeU16(offset: number, value: number): void {
    Atomics.store(this.#region.halves, (this.#base + offset) / 2, value);
  }
  storeU32(offset: number, value: number): void {
    Atomics.store(this.#region.words, (this.#base + offset) / 4, value);
  }
}

export class GuestMemory {
  readonly #regions: readonly MappedRegion[];

  /** @throws {BlockError} EINVAL when regions overlap, are not page-aligned or lie outside of their buffers. */
  constructor(handle: GuestMemoryHandle) {
    if (new Uint8Array(new Uint16Array([1]).buffer)[0] !== 1)
      throw new BlockError("ENOTSUP", "virtqueues are little-endian and so must the host be");
    this.#regions = handle.regions.map(mapRegion).sort((a, b) => a.start - b.start);
    this.#regions.forEach((region, index) => {
      const before = this.#regions[index - 1];
      if (before !== undefined && before.end > region.start)
        throw new BlockError("EINVAL", `guest memory regions overlap at ${region.start}`);
    });
  }

  /** Makes zeroed memory of `length` bytes, a multiple of 4096, at guest-physical address `guestBase`. */
  static create(length: number, guestBase = 0): GuestMemoryHandle {
    return { regions: [{ guestBase, memory: new SharedArrayBuffer(length), byteOffset: 0, length }] };
  }

  /** The range as one window, or undefined when it is not wholly inside one region. */
  window(address: number, length: number): GuestWindow | undefined {
    const region = this.#find(address);
    if (region === undefined || address + length > region.end) return undefined;
    return new GuestWindow(region, address - region.start);
  }

  /**
   * Appends views of the range to `into`, one for each region it runs through; no bytes are copied.
   * @returns false when some of it is not memory; `into` may have grown then.
   */
  translate(address: number, length: number, into: Uint8Array[]): boolean {
    let position = address;
    let left = length;
    while (left > 0) {
      const region = this.#find(position);
      if (region === undefined) return false;
      const take = Math.min(left, region.end - position);
      const start = position - region.start;
      into.push(region.bytes.subarray(start, start + take));
      position += take;
      left -= take;
    }
    return true;
  }

  /** Copies a short range to `target` from `position` on, reading each byte once. False when it is not all memory. */
  copy(address: number, length: number, target: Uint8Array, position: number): boolean {
    let region = this.#find(address);
    for (let index = 0; index < length; index++) {
      if (region !== undefined && address + index >= region.end) region = this.#find(address + index);
      if (region === undefined) return false;
      target[position + index] = region.bytes[address + index - region.start] as number;
    }
    return true;
  }

  #find(address: number): MappedRegion | undefined {
    for (const region of this.#regions) if (address >= region.start && address < region.end) return region;
    return undefined;
  }
}

function mapRegion(region: GuestRegion): MappedRegion {
  const { guestBase, memory, byteOffset, length } = region;
  for (const value of [guestBase, byteOffset, length])
    if (!Number.isSafeInteger(value) || value < 0 || value % PAGE_SIZE !== 0)
      throw new BlockError("EINVAL", "guest memory regions begin and end on pages of 4096 bytes");
  if (length === 0 || byteOffset + length > memory.byteLength || !Number.isSafeInteger(guestBase + length))
    throw new BlockError("EINVAL", `guest memory region at ${guestBase} is empty or outside of its buffer`);
  return {
    start: guestBase,
    end: guestBase + length,
    bytes: new Uint8Array(memory, byteOffset, length),
    view: new DataView(memory, byteOffset, length),
    halves: new Uint16Array(memory, byteOffset, length / 2),
    words: new Uint32Array(memory, byteOffset, length / 4),
  };
}
