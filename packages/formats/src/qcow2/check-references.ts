/**
 * Counts how often the tables of an image refer to each cluster, and looks at every entry on the way: L1 and L2 tables of
 * the active state and of the snapshots, the snapshot table, the refcount table and its blocks, and what bitmaps have.
 */
import { BlockError, ByteView, type Co } from "@spindle/base";
import { ALL_ONES, type BitmapEntry, readBitmapDirectory, readBitmapTable } from "./bitmap-directory.ts";
import type { CheckedImage } from "./check-image.ts";
import { hexEntry, L2Walk } from "./check-l2.ts";
import type { CheckTally } from "./check-tally.ts";
import type { ClusterCounts } from "./cluster-counts.ts";
import { ClusterSeparation } from "./cluster-separation.ts";
import { COPIED_HIGH, OFFSET_HIGH_MASK, OFFSET_LOW_MASK } from "./l2-entry.ts";
import { readPadded } from "./padded-read.ts";
import { ReferenceCounter } from "./reference-counter.ts";
import { L1_ENTRIES_MAX, type SnapshotEntry, type SnapshotTable, TABLE_ENTRIES_MAX } from "./snapshot-table.ts";
import type { StoredCounts } from "./stored-counts.ts";

const L1_RESERVED_HIGH = 0x7f000000;
const L1_RESERVED_LOW = 0x1ff;

/** What one walk through the tables has found. */
export interface References {
  readonly counts: ClusterCounts;
  /** Indices of entries of the active L1 table whose own flag, or a flag in whose L2 table, may be wrong. */
  readonly suspects: readonly number[];
  /** The refcount table or a block of it is wrong in itself, so that counts can only be had by making them anew. */
  readonly needsRebuild: boolean;
  /** In a repair, entries that are to refer to copies once these are counted. */
  readonly separation: ClusterSeparation | undefined;
}

/** @throws {BlockError} EFBIG when the tables of bitmaps are longer than any image needs. */
export function* countReferences(
  image: CheckedImage,
  snapshots: SnapshotTable,
  stored: StoredCounts,
  tally: CheckTally,
): Co<References> {
  return yield* new ReferenceWalk(image, snapshots, stored, tally).run();
}

class ReferenceWalk {
  readonly #image: CheckedImage;
  readonly #snapshots: SnapshotTable;
  readonly #stored: StoredCounts;
  readonly #tally: CheckTally;
  readonly #counter: ReferenceCounter;
  readonly #separation: ClusterSeparation | undefined;
  readonly #l2: L2Walk;
  readonly #suspects: number[] = [];
  #bitmapEntries = 0;
  #l1TablesWalked = 0;
  #needsRebuild = false;

  constructor(image: CheckedImage, snapshots: SnapshotTable, stored: StoredCounts, tally: CheckTally) {
    this.#image = image;
    this.#snapshots = snapshots;
    this.#stored = stored;
    this.#tally = tally;
    this.#counter = new ReferenceCounter(image.file, image.clusterSize, image.refcountMost, tally);
    this.#separation = tally.repairsErrors ? new ClusterSeparation(image, this.#counter) : undefined;
    this.#l2 = new L2Walk(image, tally, this.#counter, stored, this.#separation);
  }

  *run(): Co<References> {
    const { header, clusterSize, l1, refcountTable } = this.#image;
    this.#counter.refer(0, clusterSize);
    yield* this.#walkL1(l1, header.l1Offset, true);
    for (const snapshot of this.#snapshots.entries) yield* this.#walkSnapshot(snapshot);
    this.#counter.refer(header.snapshotsOffset, this.#snapshots.length);
    if (header.cryptoHeader !== null) this.#counter.refer(header.cryptoHeader.offset, header.cryptoHeader.length);
    this.#referToCounts(header.refcountTableOffset, refcountTable.byteLength);
    yield* this.#walkBitmaps();
    for (let index = 0; index < this.#image.refcountTableEntries; index++) this.#checkBlock(index);
    const { counts } = this.#counter;
    const separation = this.#separation;
    return { counts, suspects: this.#suspects, needsRebuild: this.#needsRebuild, separation };
  }

  *#walkL1(l1: DataView, offset: number, active: boolean): Co<void> {
    if (l1.byteLength === 0) return;
    this.#counter.refer(offset, l1.byteLength);
    this.#l1TablesWalked += 1;
    /** L2 tables that were referred to before, and how often they are again: each is walked once more, at the end. */
    const again = new Map<number, number>();
    for (let index = 0; index < l1.byteLength / 8; index++) {
      const high = l1.getUint32(index * 8);
      const low = l1.getUint32(index * 8 + 4);
      if (high === 0 && low === 0) continue;
      const isSuspect = yield* this.#walkL1Entry(offset + index * 8, high, low, active, again);
      if (isSuspect && active) this.#suspects.push(index);
    }
    for (const [l2Offset, weight] of again) yield* this.#l2.walk(l2Offset, { weight, active });
  }

  /** @returns whether a flag of the entry or in its table may be wrong */
  *#walkL1Entry(
    entryOffset: number,
    high: number,
    low: number,
    active: boolean,
    again: Map<number, number>,
  ): Co<boolean> {
    const { clusterSize } = this.#image;
    const tally = this.#tally;
    if ((high & L1_RESERVED_HIGH) !== 0 || (low & L1_RESERVED_LOW) !== 0) {
      tally.say(`ERROR found L1 entry with reserved bits set: ${hexEntry(high, low)}`);
      tally.corruptions += 1;
    }
    let l2Offset = (high & OFFSET_HIGH_MASK) * 2 ** 32 + ((low & OFFSET_LOW_MASK) >>> 0);
    if (this.#separation !== undefined && this.#counter.wouldOverflow(l2Offset, clusterSize, 1)) {
      const entry = (BigInt(high) << 32n) | BigInt(low);
      l2Offset = yield* this.#separation.copy(entryOffset, entry, l2Offset, clusterSize, 1);
    } else this.#counter.refer(l2Offset, clusterSize);
    if (l2Offset % clusterSize !== 0) {
      tally.say(`ERROR l2_offset=${l2Offset.toString(16)}: Table is not cluster aligned; L1 entry corrupted`);
      tally.corruptions += 1;
    }
    const cluster = Math.floor(l2Offset / clusterSize);
    // In an image that is right, an L1 table refers to an L2 table once. Walking one as often as a hostile image wants
    // could take for ever.
    if (this.#counter.counts.get(cluster) > this.#l1TablesWalked) {
      again.set(l2Offset, (again.get(l2Offset) ?? 0) + 1);
      return true;
    }
    const mayContradict = this.#stored.mayContradict(cluster, high >= COPIED_HIGH);
    return (yield* this.#l2.walk(l2Offset, { weight: 1, active })) || mayContradict;
  }

  *#walkSnapshot({ id, name, l1Offset, l1Entries, bytes: entry }: SnapshotEntry): Co<void> {
    const tally = this.#tally;
    const exactOffset = new ByteView(entry).bigU64be(0);
    if (exactOffset % BigInt(this.#image.clusterSize) !== 0n) {
      const place = `l1_offset=0x${exactOffset.toString(16)}`;
      tally.say(
        `ERROR snapshot ${id} (${name}) ${place}: L1 table is not cluster aligned; snapshot table entry corrupted`,
      );
      tally.corruptions += 1;
    } else if (l1Entries > L1_ENTRIES_MAX) {
      const size = `l1_size=0x${l1Entries.toString(16)}`;
      tally.say(`ERROR snapshot ${id} (${name}) ${size}: L1 table is too large; snapshot table entry corrupted`);
      tally.corruptions += 1;
    } else {
      const bytes = new Uint8Array(l1Entries * 8);
      yield* readPadded(this.#image.file, l1Offset, bytes);
      yield* this.#walkL1(new DataView(bytes.buffer), l1Offset, false);
    }
  }

  *#walkBitmaps(): Co<void> {
    const { bitmaps, file, clusterSize, header } = this.#image;
    if (bitmaps === null) return;
    this.#counter.refer(bitmaps.offset, bitmaps.length);
    for (const table of yield* readBitmapDirectory(file, bitmaps, clusterSize, header.size))
      yield* this.#walkBitmap(table);
  }

  *#walkBitmap(table: BitmapEntry): Co<void> {
    const { file, clusterSize } = this.#image;
    this.#bitmapEntries += table.entries;
    if (this.#bitmapEntries > TABLE_ENTRIES_MAX)
      throw new BlockError("EFBIG", "the image's bitmap tables are too long to be checked");
    this.#counter.refer(table.offset, table.entries * 8);
    for (const place of yield* readBitmapTable(file, table, clusterSize))
      if (place > ALL_ONES) this.#counter.refer(place, clusterSize);
  }

  #checkBlock(index: number): void {
    const { clusterSize } = this.#image;
    const offset = this.#image.blockOffset(index);
    if (this.#image.blockHasReservedBits(index))
      this.#wrongBlock(`ERROR refcount table entry ${index} has reserved bits set`);
    else if (offset % clusterSize !== 0)
      this.#wrongBlock(`ERROR refcount block ${index} is not cluster aligned; refcount table entry corrupted`);
    else if (offset / clusterSize >= this.#counter.counts.length)
      // Nothing that is in the file is counted there: leaks can be given back without it.
      this.#wrongBlock(`${this.#tally.verb} refcount block ${index} is outside image`, this.#tally.repairsErrors);
    else if (offset !== 0) this.#referToBlock(index, offset);
  }

  #referToBlock(index: number, offset: number): void {
    const { clusterSize } = this.#image;
    this.#referToCounts(offset, clusterSize);
    const count = this.#counter.counts.get(offset / clusterSize);
    if (count !== 1) this.#wrongBlock(`ERROR refcount block ${index} refcount=${count}`);
  }

  /** What is shared with something else, but cannot be counted so, is made anew somewhere else. */
  #referToCounts(offset: number, length: number): void {
    if (this.#separation !== undefined && this.#counter.wouldOverflow(offset, length, 1)) this.#needsRebuild = true;
    this.#counter.refer(offset, length);
  }

  #wrongBlock(line: string, needsRebuild = true): void {
    this.#tally.say(line);
    this.#tally.corruptions += 1;
    if (needsRebuild) this.#needsRebuild = true;
  }
}
