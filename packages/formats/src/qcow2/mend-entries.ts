/**
 * The part of a repair that changes what tables say: bits without a meaning are cleared, and entries that cannot be true
 * are given up. A cluster whose entry is given up reads as zeros, in version 2 as what lies below; its data was not to be
 * had before either.
 */
import type { Co } from "@spindle/base";
import { IoVector } from "@spindle/block";
import type { CheckedImage } from "./check-image.ts";
import type { CheckTally } from "./check-tally.ts";
import { ClusterCounts } from "./cluster-counts.ts";
import { hasDataFile } from "./header.ts";
import { COMPRESSED_HIGH, COPIED_HIGH, decodeCompressedEntry, OFFSET_HIGH_MASK, OFFSET_LOW_MASK } from "./l2-entry.ts";
import { readPadded } from "./padded-read.ts";
import { L1_ENTRIES_MAX, type SnapshotEntry } from "./snapshot-table.ts";

const WORD = 2 ** 32;
const L1_HIGH_MASK = COPIED_HIGH + OFFSET_HIGH_MASK;
const L2_HIGH_MASK = COPIED_HIGH + OFFSET_HIGH_MASK;
const ZERO_LOW = 1;
const L2_LOW_MASK = OFFSET_LOW_MASK + ZERO_LOW;

/** What is known of a cluster: no L2 table can be in it, or an L2 table that was looked at is. */
const HOLDS_OTHER_TABLE = 1;
const LOOKED_AT = 2;

/** Nothing is durable when it ends. @param snapshots those whose L1 tables can be read */
export function* mendEntries(image: CheckedImage, snapshots: readonly SnapshotEntry[], tally: CheckTally): Co<void> {
  yield* new Mending(image, tally).run(snapshots);
}

class Mending {
  readonly #image: CheckedImage;
  readonly #tally: CheckTally;
  readonly #clusters: ClusterCounts;
  readonly #bytes: Uint8Array;
  readonly #table: DataView;

  constructor(image: CheckedImage, tally: CheckTally) {
    this.#image = image;
    this.#tally = tally;
    this.#clusters = new ClusterCounts(image.fileClusters);
    this.#bytes = new Uint8Array(image.clusterSize);
    this.#table = new DataView(this.#bytes.buffer);
  }

  /** Data clusters stand in another file, of which nothing is known here. */
  get #isOutside(): boolean {
    return hasDataFile(this.#image.header);
  }

  *run(snapshots: readonly SnapshotEntry[]): Co<void> {
    const { header, l1, file, refcountTable } = this.#image;
    this.#occupy(0, 1);
    this.#occupy(header.refcountTableOffset, refcountTable.byteLength);
    for (let index = 0; index < this.#image.refcountTableEntries; index++) {
      const offset = this.#image.blockOffset(index);
      if (offset !== 0) this.#occupy(offset, 1);
    }
    this.#occupy(header.l1Offset, l1.byteLength);
    for (const { l1Offset, l1Entries } of snapshots) this.#occupy(l1Offset, l1Entries * 8);
    yield* this.#mendL1(l1, header.l1Offset);
    for (const { l1Offset, l1Entries } of snapshots) {
      if (l1Entries > L1_ENTRIES_MAX) continue;
      const bytes = new Uint8Array(l1Entries * 8);
      yield* readPadded(file, l1Offset, bytes);
      yield* this.#mendL1(new DataView(bytes.buffer), l1Offset);
    }
  }

  #occupy(offset: number, length: number): void {
    const { clusterSize } = this.#image;
    const end = Math.min(Math.ceil((offset + length) / clusterSize), this.#clusters.length);
    for (let index = Math.floor(offset / clusterSize); index < end; index++)
      this.#clusters.set(index, HOLDS_OTHER_TABLE);
  }

  *#mendL1(l1: DataView, l1Offset: number): Co<void> {
    const { clusterSize, file } = this.#image;
    for (let index = 0; index < l1.byteLength / 8; index++) {
      const high = l1.getUint32(index * 8);
      const low = l1.getUint32(index * 8 + 4);
      if (high === 0 && low === 0) continue;
      const offset = offsetOf(high, low);
      const isTable = offset % clusterSize === 0 && offset < file.length;
      const known = isTable ? this.#clusters.get(offset / clusterSize) : HOLDS_OTHER_TABLE;
      const mended =
        known === HOLDS_OTHER_TABLE ? [0, 0] : [(high & L1_HIGH_MASK) >>> 0, (low & OFFSET_LOW_MASK) >>> 0];
      if (mended[0] !== high || mended[1] !== low) {
        const what = known === HOLDS_OTHER_TABLE ? `there is no L2 table at ${offset}; given up` : "reserved bits set";
        this.#mended(`Repairing L1 entry ${index}: ${what}`);
        l1.setUint32(index * 8, mended[0] as number);
        l1.setUint32(index * 8 + 4, mended[1] as number);
        yield* file.write(l1Offset + index * 8, IoVector.of(new Uint8Array(l1.buffer, index * 8, 8).slice()));
      }
      if (known !== 0) continue;
      this.#clusters.set(offset / clusterSize, LOOKED_AT);
      yield* this.#mendL2(offset);
    }
  }

  *#mendL2(offset: number): Co<void> {
    const { file } = this.#image;
    yield* readPadded(file, offset, this.#bytes);
    let isChanged = false;
    const { entryBytes, extended } = this.#image.entries;
    for (let at = 0; at < this.#bytes.length; at += entryBytes) {
      const high = this.#table.getUint32(at);
      const low = this.#table.getUint32(at + 4);
      const mendsBits = extended && this.#mendBits(at, high, low);
      isChanged ||= mendsBits;
      if (high === 0 && low === 0) continue;
      const mends = (high & COMPRESSED_HIGH) === 0 ? this.#mendStandard(at, high, low) : this.#mendCompressed(at, high);
      isChanged ||= mends;
    }
    if (isChanged) yield* file.write(offset, IoVector.of(this.#bytes.slice()));
  }

  /** Where it is not certain that a subcluster is data, it reads as zeros: nothing old is shown that was not to be seen. */
  #mendBits(at: number, high: number, low: number): boolean {
    const isCompressed = (high & COMPRESSED_HIGH) !== 0;
    const zero = this.#table.getUint32(at + 8);
    const allocated = this.#table.getUint32(at + 12);
    const offset = offsetOf(high, low);
    const isPlaced = offset !== 0 || (this.#isOutside && high >= COPIED_HIGH);
    const doubtful = isCompressed || !isPlaced ? allocated : zero & allocated;
    if (doubtful === 0 && !(isCompressed && zero !== 0)) return false;
    this.#mended(`Repairing offset=${offset.toString(16)}: subcluster allocation bitmap corrupted`);
    this.#table.setUint32(at + 8, isCompressed ? 0 : zero | doubtful);
    this.#table.setUint32(at + 12, allocated & ~doubtful);
    return true;
  }

  #mendStandard(at: number, high: number, low: number): boolean {
    const { clusterSize, file } = this.#image;
    const offset = offsetOf(high, low);
    if (offset % clusterSize !== 0 || (offset >= file.length && !this.#isOutside)) {
      const { extended } = this.#image.entries;
      const isData = extended ? this.#table.getUint32(at + 12) !== 0 : (low & ZERO_LOW) === 0;
      const what = isData ? "Data cluster" : "Preallocated cluster";
      const where = offset % clusterSize !== 0 ? "is not properly aligned" : "is outside image";
      return this.#giveUp(at, `Repairing offset=${offset.toString(16)}: ${what} ${where}; L2 entry corrupted.`);
    }
    const mendedHigh = (high & L2_HIGH_MASK) >>> 0;
    // Version 2 has no zero clusters.
    const mendedLow = (low & (this.#image.header.version < 3 ? OFFSET_LOW_MASK : L2_LOW_MASK)) >>> 0;
    if (mendedHigh === high && mendedLow === low) return false;
    this.#mended(`Repairing L2 entry of offset=${offset.toString(16)}: reserved bits set`);
    this.#table.setUint32(at, mendedHigh);
    this.#table.setUint32(at + 4, mendedLow);
    return true;
  }

  #mendCompressed(at: number, high: number): boolean {
    const { header, file, clusterSize } = this.#image;
    const { hostOffset, length, exact } = decodeCompressedEntry(this.#table, at, header.clusterBits);
    if (this.#isOutside)
      return this.#giveUp(at, `Repairing coffset=0x${exact.toString(16)}: compressed cluster with data file`);
    if (hostOffset + length - file.length >= clusterSize)
      return this.#giveUp(at, `Repairing coffset=0x${exact.toString(16)}: compressed cluster is outside image`);
    if (high < COPIED_HIGH) return false;
    this.#mended(`Repairing coffset=0x${exact.toString(16)}: copied flag of a compressed cluster`);
    this.#table.setUint32(at, high - COPIED_HIGH);
    return true;
  }

  #giveUp(at: number, line: string): true {
    this.#mended(line);
    const high = this.#table.getUint32(at);
    this.#table.setUint32(at, 0);
    const { header, entries } = this.#image;
    this.#table.setUint32(at + 4, header.version >= 3 && !entries.extended ? ZERO_LOW : 0);
    if (!entries.extended) return true;
    // Only what had data is lost.
    const isCompressed = (high & COMPRESSED_HIGH) !== 0;
    const lost = isCompressed ? entries.all : this.#table.getUint32(at + 12);
    this.#table.setUint32(at + 8, this.#table.getUint32(at + 8) | lost);
    this.#table.setUint32(at + 12, 0);
    return true;
  }

  #mended(line: string): void {
    this.#tally.say(line);
    this.#tally.corruptionsFixed += 1;
  }
}

function offsetOf(high: number, low: number): number {
  return (high & OFFSET_HIGH_MASK) * WORD + ((low & OFFSET_LOW_MASK) >>> 0);
}
