/**
 * Entries of the L2 tables of one image (qcow2 specification, "Cluster mapping" and "Extended L2 Entries"). An entry has 8
 * bytes and speaks of a whole cluster, or 16 bytes, and then the second half has two bits for each of the cluster's 32
 * subclusters. Both are told in the same words: a cluster without subclusters is its only subcluster.
 */
import type { MappingKind } from "@spindle/block";
import { hasDataFile, l2EntryBytes, type Qcow2Header } from "./header.ts";
import {
  COMPRESSED_HIGH,
  COPIED_HIGH,
  type CompressedPlace,
  OFFSET_HIGH_MASK,
  OFFSET_LOW_MASK,
  readCompressedEntry,
  writeCompressedEntry,
  ZERO_LOW,
} from "./l2-entry.ts";
import { corrupt } from "./refcount.ts";

const WORD = 2 ** 32;
const EXTENDED_SUBCLUSTERS = 32;

/** The offset of a guest cluster that has no host cluster. */
export const NO_CLUSTER = -1;

/** What an L2 entry says of one guest cluster. */
export interface Entry {
  /** Its place is told by {@link EntryLayout.readCompressed}. */
  readonly compressed: boolean;
  /** Where the host cluster stands, in bytes; {@link NO_CLUSTER} when there is none, or for compressed data. */
  readonly hostOffset: number;
  /** The host cluster is referenced once and may be overwritten. */
  readonly copied: boolean;
  /** A bit for each subcluster, from the lowest on: it stands in the host cluster. An unsigned word. */
  readonly allocated: number;
  /** It reads as zeros. No bit is set in both words; where none is, the subcluster is not in this layer. */
  readonly zero: number;
}

/** An entry of a cluster that is not in this layer. */
export const UNALLOCATED: Entry = { compressed: false, hostOffset: NO_CLUSTER, copied: false, allocated: 0, zero: 0 };
const COMPRESSED: Entry = { ...UNALLOCATED, compressed: true };

export class EntryLayout {
  readonly clusterSize: number;
  /** Subclusters of one cluster: 1 or 32. */
  readonly subclusters: number;
  /** Bytes. */
  readonly subclusterSize: number;
  readonly entryBytes: number;
  /** Entries of one L2 table. */
  readonly entriesPerTable: number;
  /** The word in which the bit of each subcluster is set. */
  readonly all: number;
  readonly #clusterBits: number;
  /** The "zero" bit, except where subclusters have bits of their own. */
  readonly #zeroLow: number;
  /** It has no meaning, and must not be set. */
  readonly #isVersion2: boolean;
  /** In a data file a cluster can stand at 0, which the "copied" bit tells from none; 0 where it cannot. */
  readonly #placedHigh: number;

  constructor(header: Pick<Qcow2Header, "clusterBits" | "incompatible" | "version">) {
    const { clusterBits, version } = header;
    this.entryBytes = l2EntryBytes(header);
    const extended = this.entryBytes === 16;
    this.clusterSize = 2 ** clusterBits;
    this.subclusters = extended ? EXTENDED_SUBCLUSTERS : 1;
    this.subclusterSize = this.clusterSize / this.subclusters;
    this.entriesPerTable = this.clusterSize / this.entryBytes;
    this.all = extended ? 0xffffffff : 1;
    this.#clusterBits = clusterBits;
    this.#zeroLow = extended ? 0 : ZERO_LOW;
    this.#isVersion2 = version < 3;
    this.#placedHigh = hasDataFile(header) ? COPIED_HIGH : 0;
  }

  get extended(): boolean {
    return this.subclusters > 1;
  }

  /** The bits of `count` subclusters from `first` on. */
  bits(first: number, count: number): number {
    return count === EXTENDED_SUBCLUSTERS ? this.all : ((2 ** count - 1) << first) >>> 0;
  }

  /** @throws {BlockError} EIO when the entry cannot be true. */
  read(table: DataView, index: number): Entry {
    const at = index * this.entryBytes;
    const high = table.getUint32(at);
    const low = table.getUint32(at + 4);
    if ((high & COMPRESSED_HIGH) !== 0) return COMPRESSED;
    const offset = (high & OFFSET_HIGH_MASK) * WORD + ((low & OFFSET_LOW_MASK) >>> 0);
    if (offset % this.clusterSize !== 0 || offset > Number.MAX_SAFE_INTEGER - this.clusterSize)
      throw corrupt(`Cluster allocation offset 0x${offset.toString(16)} unaligned (L2 index: 0x${index.toString(16)})`);
    let zero = low & this.#zeroLow;
    if (zero !== 0 && this.#isVersion2)
      throw corrupt(`Zero cluster entry found in pre-v3 image (L2 index: 0x${index.toString(16)})`);
    const isPlaced = offset !== 0 || (zero === 0 && (high & this.#placedHigh) !== 0);
    let allocated = isPlaced && zero === 0 ? 1 : 0;
    if (this.extended) {
      zero = table.getUint32(at + 8);
      allocated = table.getUint32(at + 12);
      if ((zero & allocated) !== 0 || (!isPlaced && allocated !== 0))
        throw corrupt(`Invalid cluster entry found (L2 index: 0x${index.toString(16)})`);
    }
    const hostOffset = isPlaced ? offset : NO_CLUSTER;
    return { compressed: false, hostOffset, copied: high >= COPIED_HIGH, allocated, zero };
  }

  write(table: DataView, index: number, { hostOffset, copied, allocated, zero }: Entry): void {
    const at = index * this.entryBytes;
    const offset = hostOffset === NO_CLUSTER ? 0 : hostOffset;
    table.setUint32(at, Math.floor(offset / WORD) + (copied ? COPIED_HIGH : 0));
    table.setUint32(at + 4, (offset % WORD) + (this.extended ? 0 : zero));
    if (!this.extended) return;
    table.setUint32(at + 8, zero);
    table.setUint32(at + 12, allocated);
  }

  /** @throws {BlockError} EIO when the entry cannot be true. */
  readCompressed(table: DataView, index: number): CompressedPlace {
    return readCompressedEntry(table, index * this.entryBytes, this.#clusterBits);
  }

  writeCompressed(table: DataView, index: number, place: CompressedPlace): void {
    writeCompressedEntry(table, index * this.entryBytes, this.#clusterBits, place);
    if (this.extended) table.setBigUint64(index * this.entryBytes + 8, 0n);
  }

  /** What a subcluster is. */
  kindOf({ compressed, allocated, zero }: Entry, subcluster: number): MappingKind {
    if (compressed) return "compressed";
    const bit = 2 ** subcluster;
    if ((allocated & bit) !== 0) return "data";
    return (zero & bit) !== 0 ? "zero" : "unallocated";
  }

  /**
   * How many subclusters are one run: of one kind, contiguous where they have clusters, and equally shared when they
   * are data. It begins with `subcluster` of the entry at `index`, which is `first`, and ends before the entry at `limit`.
   * @throws {BlockError} EIO when an entry that would be next in the run cannot be true.
   */
  run(table: DataView, index: number, limit: number, subcluster: number, first: Entry): number {
    if (!this.extended) return index + 1 === limit ? 1 : this.#runOfWords(table, index, limit);
    if (first.compressed) return EXTENDED_SUBCLUSTERS - subcluster;
    const kind = this.kindOf(first, subcluster);
    let count = this.#runInside(first, kind, subcluster);
    let end = subcluster + count;
    for (let at = index + 1; at < limit && end % EXTENDED_SUBCLUSTERS === 0; at++) {
      const next = this.read(table, at);
      if (this.kindOf(next, 0) !== kind || !this.#follows(first, next, at - index, kind)) break;
      const inside = this.#runInside(next, kind, 0);
      count += inside;
      end += inside;
    }
    return count;
  }

  /** Subclusters of one kind from `subcluster` on. */
  #runInside({ allocated, zero }: Entry, kind: MappingKind, subcluster: number): number {
    const others = kind === "data" ? ~allocated : kind === "zero" ? ~zero : allocated | zero;
    const next = (others >>> subcluster) & -(others >>> subcluster);
    return next === 0 ? EXTENDED_SUBCLUSTERS - subcluster : 31 - Math.clz32(next);
  }

  #follows(first: Entry, next: Entry, distance: number, kind: MappingKind): boolean {
    if (first.hostOffset === NO_CLUSTER || next.hostOffset === NO_CLUSTER) return first.hostOffset === next.hostOffset;
    if (next.hostOffset !== first.hostOffset + distance * this.clusterSize) return false;
    return kind !== "data" || first.copied === next.copied;
  }

  /** The same for entries of 8 bytes, whose words are compared: this is where long requests spend their time. */
  #runOfWords(table: DataView, index: number, limit: number): number {
    const zeroLow = this.#zeroLow;
    const high = table.getUint32(index * 8);
    const low = table.getUint32(index * 8 + 4);
    let highMask = COMPRESSED_HIGH;
    let lowMask = zeroLow;
    let step = 0;
    if ((high & COMPRESSED_HIGH) !== 0) lowMask = 0;
    else {
      const isZero = (low & zeroLow) !== 0;
      const isFirst = !isZero && (high & this.#placedHigh) !== 0;
      const hasPlace = isFirst || (high & OFFSET_HIGH_MASK) !== 0 || (low & OFFSET_LOW_MASK) !== 0;
      const isData = hasPlace && !isZero;
      step = hasPlace ? this.clusterSize : 0;
      const flags = isData ? COPIED_HIGH : isZero ? 0 : this.#placedHigh;
      highMask |= flags | OFFSET_HIGH_MASK;
      lowMask |= OFFSET_LOW_MASK;
    }
    let expectedHigh = high & highMask;
    let expectedLow = (low & lowMask) >>> 0;
    let count = 1;
    for (; index + count < limit; count++) {
      expectedLow += step;
      if (expectedLow >= WORD) {
        expectedLow -= WORD;
        expectedHigh += 1;
      }
      const at = (index + count) * 8;
      if ((table.getUint32(at) & highMask) !== expectedHigh) break;
      if ((table.getUint32(at + 4) & lowMask) >>> 0 !== expectedLow) break;
    }
    return count;
  }
}
