/**
 * Where the units of a disk stand, in shared memory: data movers on any thread look here and go straight to the
 * descriptor. Only the owner of the graph writes. An entry carries a version that is odd while it is being written, so
 * that a reader never believes half of one.
 *
 * Who looks here holds a read or write range in the tracker. The owner forgets a unit as soon as it holds an exclusive
 * range over it, before it frees anything, and notes nothing while the range is held. So whoever finds an old place is an
 * older request than the freeing, and a freed cluster is not reused before all older requests have ended.
 */
import { alignDown, alignUp, assert } from "@spindle/base";

export interface MappingCacheHandle {
  readonly memory: SharedArrayBuffer;
  /** Bytes of the disk that one entry stands for. */
  readonly unit: number;
}

/** Where one unit stands. */
export interface Place {
  /** A descriptor of the process, or `ZERO_PLACE` when the unit reads as zeros. */
  descriptor: number;
  /** Bytes in the descriptor at which the unit begins. */
  hostOffset: number;
  /** It may be overwritten in place. */
  writable: boolean;
}

/** The descriptor of a unit that reads as zeros. */
export const ZERO_PLACE = -1;

const ENTRY_COUNT = 65_536;
const WORDS = 8;
const VERSION = 0;
/** The unit's index plus one, in two words; zero when the entry is empty. */
const TAG_LOW = 1;
const TAG_HIGH = 2;
const DESCRIPTOR = 3;
const WRITABLE = 4;
const HOST_LOW = 5;
const HOST_HIGH = 6;

const WORD = 2 ** 32;

export class MappingCache {
  readonly handle: MappingCacheHandle;
  readonly unit: number;
  readonly #words: Int32Array;

  /** @param unit bytes, a power of two */
  static create(unit: number): MappingCacheHandle {
    return { memory: new SharedArrayBuffer(ENTRY_COUNT * WORDS * 4), unit };
  }

  constructor(handle: MappingCacheHandle) {
    this.handle = handle;
    this.unit = handle.unit;
    this.#words = new Int32Array(handle.memory);
  }

  /**
   * Looks a unit up.
   * @returns false when it is not known here; `place` is then undefined in content.
   */
  find(unitIndex: number, place: Place): boolean {
    const words = this.#words;
    const base = entryOf(unitIndex);
    const version = Atomics.load(words, base + VERSION);
    if (version % 2 !== 0) return false;
    const tag = unitIndex + 1;
    const known =
      Atomics.load(words, base + TAG_LOW) >>> 0 === tag % WORD &&
      Atomics.load(words, base + TAG_HIGH) === Math.floor(tag / WORD);
    if (!known) return false;
    place.descriptor = Atomics.load(words, base + DESCRIPTOR);
    place.writable = Atomics.load(words, base + WRITABLE) === 1;
    place.hostOffset = Atomics.load(words, base + HOST_HIGH) * WORD + (Atomics.load(words, base + HOST_LOW) >>> 0);
    return Atomics.load(words, base + VERSION) === version;
  }

  /** Owner only: notes where a unit stands. The caller holds a range that keeps the unit in its place. */
  set(unitIndex: number, place: Readonly<Place>): void {
    const words = this.#words;
    const base = entryOf(unitIndex);
    const tag = unitIndex + 1;
    Atomics.add(words, base + VERSION, 1);
    Atomics.store(words, base + TAG_LOW, (tag % WORD) | 0);
    Atomics.store(words, base + TAG_HIGH, Math.floor(tag / WORD));
    Atomics.store(words, base + DESCRIPTOR, place.descriptor);
    Atomics.store(words, base + WRITABLE, place.writable ? 1 : 0);
    Atomics.store(words, base + HOST_LOW, (place.hostOffset % WORD) | 0);
    Atomics.store(words, base + HOST_HIGH, Math.floor(place.hostOffset / WORD));
    Atomics.add(words, base + VERSION, 1);
  }

  /** Owner only: forgets every unit that the range touches. */
  invalidate(offset: number, length: number): void {
    const first = alignDown(offset, this.unit) / this.unit;
    const end = alignUp(offset + length, this.unit) / this.unit;
    if (end - first >= ENTRY_COUNT) {
      for (let entry = 0; entry < ENTRY_COUNT; entry++) this.#empty(entry * WORDS);
      return;
    }
    for (let unitIndex = first; unitIndex < end; unitIndex++) {
      const base = entryOf(unitIndex);
      const tag = unitIndex + 1;
      if (Atomics.load(this.#words, base + TAG_LOW) >>> 0 === tag % WORD) this.#empty(base);
    }
  }

  #empty(base: number): void {
    Atomics.add(this.#words, base + VERSION, 1);
    Atomics.store(this.#words, base + TAG_LOW, 0);
    Atomics.store(this.#words, base + TAG_HIGH, 0);
    Atomics.add(this.#words, base + VERSION, 1);
  }
}

/** The first word of the one entry that a unit can have. */
function entryOf(unitIndex: number): number {
  assert(unitIndex >= 0, "negative unit");
  return (unitIndex % ENTRY_COUNT) * WORDS;
}
