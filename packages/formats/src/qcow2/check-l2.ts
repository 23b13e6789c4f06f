/**
 * Looks at the entries of L2 tables and counts what they refer to (qcow2 specification, "Cluster mapping"). This is where
 * a check of a large image spends its time: entries that are empty, which most are, cost a few instructions.
 */
import type { Co } from "@spindle/base";
import type { CheckedImage } from "./check-image.ts";
import type { CheckTally } from "./check-tally.ts";
import type { ClusterSeparation } from "./cluster-separation.ts";
import { hasDataFile } from "./header.ts";
import { COMPRESSED_HIGH, COPIED_HIGH, decodeCompressedEntry, OFFSET_HIGH_MASK, OFFSET_LOW_MASK } from "./l2-entry.ts";
import { readPadded } from "./padded-read.ts";
import type { ReferenceCounter } from "./reference-counter.ts";
import type { StoredCounts } from "./stored-counts.ts";

const RESERVED_HIGH = 0x3f000000;
const RESERVED_LOW = 0x1fe;
const ZERO_LOW = 1;
const WORD = 2 ** 32;

/** How a table is walked. */
interface TableWalk {
  /** The L1 table refers to it so often. */
  readonly weight: number;
  /** It belongs to the active state, which alone has flags to check and is told of as allocated or fragmented. */
  readonly active: boolean;
}

/** A range that an entry refers to. */
interface Range {
  readonly offset: number;
  readonly length: number;
}

export class L2Walk {
  readonly #image: CheckedImage;
  readonly #tally: CheckTally;
  readonly #counter: ReferenceCounter;
  readonly #stored: StoredCounts;
  readonly #separation: ClusterSeparation | undefined;
  readonly #bytes: Uint8Array;
  readonly #table: DataView;
  /** Where the next cluster stands if it follows the one before; 0 in front of the first. */
  #expectedOffset = 0;
  /** An entry's flag differs from what the image counts. */
  #hasWrongFlag = false;
  /** Entries of the table whose clusters have as many references as can be counted. */
  #overflowing: { readonly at: number; readonly range: Range }[] = [];

  /** @param separation takes the entries that would refer to a cluster once too often */
  constructor(
    image: CheckedImage,
    tally: CheckTally,
    counter: ReferenceCounter,
    stored: StoredCounts,
    separation: ClusterSeparation | undefined,
  ) {
    this.#image = image;
    this.#separation = separation;
    this.#tally = tally;
    this.#counter = counter;
    this.#stored = stored;
    this.#bytes = new Uint8Array(image.clusterSize);
    this.#table = new DataView(this.#bytes.buffer);
  }

  /** @returns whether an entry's flag may be wrong: then the flags of this table are to be looked at one by one. */
  *walk(offset: number, walk: TableWalk): Co<boolean> {
    const { file } = this.#image;
    if (offset >= file.length) return false;
    yield* readPadded(file, offset, this.#bytes);
    this.#expectedOffset = 0;
    this.#hasWrongFlag = false;
    const table = this.#table;
    const end = this.#bytes.length;
    const { entryBytes, extended } = this.#image.entries;
    for (let at = 0; at < end; at += entryBytes) {
      const high = table.getUint32(at);
      const low = table.getUint32(at + 4);
      if (high === 0 && low === 0 && (!extended || table.getUint32(at + 12) === 0)) continue;
      if ((high & COMPRESSED_HIGH) !== 0) this.#lookAtCompressed(at, high, walk);
      else this.#lookAtStandard(at, high, low, walk);
    }
    yield* this.#separate(offset, walk.weight);
    return this.#hasWrongFlag;
  }

  *#separate(tableOffset: number, weight: number): Co<void> {
    for (const { at, range } of this.#overflowing)
      yield* (this.#separation as ClusterSeparation).copy(
        tableOffset + at,
        this.#table.getBigUint64(at),
        range.offset,
        range.length,
        weight,
      );
    this.#overflowing = [];
  }

  /** Counts what an entry refers to, or leaves it to the separation. */
  #refer(at: number, range: Range, weight: number, exact?: bigint): void {
    const { offset, length } = range;
    const overflows = this.#separation !== undefined && this.#counter.wouldOverflow(offset, length, weight);
    if (overflows) this.#overflowing.push({ at, range });
    else this.#counter.refer(offset, length, weight, exact);
  }

  #lookAtStandard(at: number, high: number, low: number, { weight, active }: TableWalk): void {
    const tally = this.#tally;
    if ((high & RESERVED_HIGH) !== 0 || (low & RESERVED_LOW) !== 0) {
      tally.say(`ERROR found l2 entry with reserved bits set: ${hexEntry(high, low)}`);
      tally.corruptions += weight;
    }
    const offset = (high & OFFSET_HIGH_MASK) * WORD + ((low & OFFSET_LOW_MASK) >>> 0);
    const { clusterSize, entries } = this.#image;
    if (entries.extended) this.#checkBits(at, offset, high, weight);
    if (offset === 0 && !this.#isFirstOfDataFile(high, low)) return;
    if (offset % clusterSize !== 0) this.#tellUnaligned(at, offset, low, weight);
    const index = Math.floor(offset / clusterSize);
    // Clusters of a data file are not counted.
    const isOutside = hasDataFile(this.#image.header);
    if (active) {
      tally.allocatedClusters += weight;
      if (this.#expectedOffset !== 0 && offset !== this.#expectedOffset) tally.fragmentedClusters += weight;
      this.#expectedOffset = offset + clusterSize;
      const copied = high >= COPIED_HIGH;
      if (isOutside ? !copied : this.#stored.mayContradict(index, copied)) this.#hasWrongFlag = true;
    }
    if (isOutside) return;
    if (this.#separation === undefined && offset % clusterSize === 0 && index < this.#counter.counts.length)
      this.#counter.referCluster(index, weight);
    else this.#refer(at, { offset, length: clusterSize }, weight);
  }

  #tellUnaligned(at: number, offset: number, low: number, weight: number): void {
    const { extended } = this.#image.entries;
    const isData = extended ? this.#table.getUint32(at + 12) !== 0 : (low & ZERO_LOW) === 0;
    const what = isData ? "Data cluster" : "Preallocated cluster";
    this.#tally.say(`ERROR offset=${offset.toString(16)}: ${what} is not properly aligned; L2 entry corrupted.`);
    this.#tally.corruptions += weight;
  }

  /** The first cluster of a data file stands at 0. */
  #isFirstOfDataFile(high: number, low: number): boolean {
    const { header, entries } = this.#image;
    return hasDataFile(header) && high >= COPIED_HIGH && (entries.extended || (low & ZERO_LOW) === 0);
  }

  /** A subcluster is data or zeros, and data only where there is a host cluster. */
  #checkBits(at: number, offset: number, high: number, weight: number): void {
    const zero = this.#table.getUint32(at + 8);
    const allocated = this.#table.getUint32(at + 12);
    const isPlaced = offset !== 0 || this.#isFirstOfDataFile(high, 0);
    if (isPlaced && (zero & allocated) !== 0)
      this.#tally.say(
        `ERROR offset=${offset.toString(16)}: Allocated cluster has corrupted subcluster allocation bitmap`,
      );
    else if (!isPlaced && allocated !== 0)
      this.#tally.say("ERROR: Unallocated cluster has non-zero subcluster allocation map");
    else return;
    this.#tally.corruptions += weight;
  }

  #lookAtCompressed(at: number, high: number, { weight, active }: TableWalk): void {
    const tally = this.#tally;
    const { hostOffset, length, exact } = decodeCompressedEntry(this.#table, at, this.#image.header.clusterBits);
    if (high >= COPIED_HIGH) {
      tally.say(`ERROR: coffset=0x${exact.toString(16)}: copied flag must never be set for compressed clusters`);
      tally.corruptions += weight;
    }
    const { entryBytes, extended } = this.#image.entries;
    if (hasDataFile(this.#image.header)) {
      const entry = hexEntry(high % COPIED_HIGH, this.#table.getUint32(at + 4));
      tally.say(`ERROR compressed cluster ${at / entryBytes} with data file, entry=0x${entry}`);
      tally.corruptions += weight;
      return;
    }
    if (extended && this.#table.getBigUint64(at + 8) !== 0n) {
      const entry = hexEntry(high % COPIED_HIGH, this.#table.getUint32(at + 4));
      const what = `compressed cluster ${at / entryBytes} with non-zero subcluster allocation bitmap`;
      tally.say(`ERROR ${what}, entry=0x${entry}`);
      tally.corruptions += weight;
      // What such an entry points at counts as leaked; but it can be read, and is not given back.
      if (tally.repair === "none") return;
    }
    this.#refer(at, { offset: hostOffset, length }, weight, exact);
    if (!active) return;
    tally.allocatedClusters += weight;
    tally.compressedClusters += weight;
    // Compressed clusters share sectors with their neighbours, so that each is read apart.
    tally.fragmentedClusters += weight;
  }
}

/** An entry as QEMU prints it. */
export function hexEntry(high: number, low: number): string {
  return ((BigInt(high) << 32n) | BigInt(low)).toString(16);
}
