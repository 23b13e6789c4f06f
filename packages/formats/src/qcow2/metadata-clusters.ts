/**
 * The host clusters that hold metadata of an image that is open for writing: no data may be placed in them. They are
 * kept sorted, four bytes each, because a hostile image can name millions of them.
 */
import { alignUp, BlockError } from "@spindle/base";
import type { Qcow2Header } from "./header.ts";
import { readL1Entry } from "./l2-entry.ts";
import { ALL_CHECKS, type OverlapChecks } from "./open-options.ts";
import { corrupt, type Refcounts } from "./refcount.ts";
import type { SnapshotMetadata } from "./snapshot-metadata.ts";

/** An image file has at most this many clusters while it is written: 2 TiB of the smallest, 8 EiB of the largest. */
export const CLUSTERS_MAX: number = 2 ** 32;

export class MetadataClusters {
  #sorted: Uint32Array;
  #count: number;
  /** Those of snapshots, sorted too; an L2 table of the active state may be among them until it is copied. */
  #inactive: Uint32Array = new Uint32Array(0);

  readonly #checks: OverlapChecks;

  /**
   * @param sorted cluster indices, ascending, each once
   * @param checks which kinds of metadata of snapshots count
   */
  constructor(sorted: Uint32Array, checks: OverlapChecks = ALL_CHECKS) {
    this.#sorted = sorted;
    this.#checks = checks;
    this.#count = sorted.length;
  }

  /** These are the snapshots from now on. */
  setInactive(snapshots: SnapshotMetadata, clusterSize: number): void {
    this.#inactive = inactiveClusters(snapshots, clusterSize, this.#checks);
  }

  has(index: number): boolean {
    return this.touches(index, 1);
  }

  /** Whether one of `count` clusters from `index` on holds metadata. */
  touches(index: number, count: number): boolean {
    const at = positionIn(this.#sorted, this.#count, index);
    if (at < this.#count && (this.#sorted[at] as number) < index + count) return true;
    const inactive = this.#inactive;
    if (inactive.length === 0) return false;
    const other = positionIn(inactive, inactive.length, index);
    return other < inactive.length && (inactive[other] as number) < index + count;
  }

  add(index: number): void {
    const at = positionIn(this.#sorted, this.#count, index);
    if (at < this.#count && this.#sorted[at] === index) return;
    if (this.#count === this.#sorted.length) {
      const larger = new Uint32Array(Math.max(16, this.#count * 2));
      larger.set(this.#sorted);
      this.#sorted = larger;
    }
    this.#sorted.copyWithin(at + 1, at, this.#count);
    this.#sorted[at] = index;
    this.#count += 1;
  }

  delete(index: number): void {
    const at = positionIn(this.#sorted, this.#count, index);
    if (at === this.#count || this.#sorted[at] !== index) return;
    this.#sorted.copyWithin(at, at + 1, this.#count);
    this.#count -= 1;
  }
}

/** Where the first of `count` sorted indices stands that is not below this one. */
function positionIn(sorted: Uint32Array, count: number, index: number): number {
  let low = 0;
  let high = count;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((sorted[middle] as number) < index) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Where an image has its metadata, and which kinds of it are looked after. */
interface MetadataTables {
  readonly header: Qcow2Header;
  readonly l1: DataView;
  readonly refcounts: Refcounts;
  readonly snapshots: SnapshotMetadata;
  readonly checks: OverlapChecks;
}

/** Takes a run of clusters from byte offset `offset` on. */
type Visit = (offset: number, clusters: number, what: string) => void;

/**
 * Collects what header, tables and their entries name.
 * @throws {BlockError} EIO when two of them name the same cluster, or one beyond the end of the file: a write would
 * damage the image. EFBIG when the file is too long to be written.
 */
export function collectMetadata(tables: MetadataTables, fileLength: number): MetadataClusters {
  const { header, snapshots, checks } = tables;
  const clusterSize = 2 ** header.clusterBits;
  if (fileLength / clusterSize > CLUSTERS_MAX)
    throw new BlockError("EFBIG", "the image file has too many clusters to be opened read/write");
  let count = 0;
  visitMetadata(tables, (offset, clusters, what) => {
    if (offset >= fileLength) throw corrupt(`${what} stands beyond the end of the image file`);
    count += clusters;
  });
  const sorted = new Uint32Array(count);
  let at = 0;
  visitMetadata(tables, (offset, clusters) => {
    for (let index = 0; index < clusters; index++) sorted[at++] = offset / clusterSize + index;
  });
  sorted.sort();
  for (let index = 1; index < count; index++)
    if (sorted[index] === sorted[index - 1]) throw corrupt(`two tables stand in cluster ${sorted[index]}`);
  const clusters = new MetadataClusters(sorted, checks);
  clusters.setInactive(snapshots, clusterSize);
  return clusters;
}

function inactiveClusters(
  { l1Tables, l2Tables }: SnapshotMetadata,
  clusterSize: number,
  checks: OverlapChecks,
): Uint32Array {
  const found = new Set<number>();
  const add = (offset: number, length: number): void => {
    for (let index = Math.floor(offset / clusterSize); index * clusterSize < offset + length; index++)
      if (index < CLUSTERS_MAX) found.add(index);
  };
  if (checks("inactive-l1")) for (const { offset, length } of l1Tables) add(offset, length);
  if (checks("inactive-l2")) for (const offset of l2Tables) add(offset, 1);
  return Uint32Array.from(found).sort();
}

function visitMetadata({ header, l1, refcounts, snapshots, checks }: MetadataTables, visit: Visit): void {
  const clusterSize = 2 ** header.clusterBits;
  const clustersOf = (bytes: number): number => alignUp(bytes, clusterSize) / clusterSize;
  if (checks("main-header")) visit(0, 1, "the header");
  if (checks("refcount-table")) visit(header.refcountTableOffset, header.refcountTableClusters, "the refcount table");
  if (header.l1Entries > 0 && checks("active-l1"))
    visit(header.l1Offset, clustersOf(header.l1Entries * 8), "the L1 table");
  const { cryptoHeader } = header;
  if (cryptoHeader !== null && checks("main-header"))
    visit(cryptoHeader.offset, clustersOf(cryptoHeader.length), "the encryption header");
  if (header.snapshotCount > 0 && checks("snapshot-table"))
    visit(snapshots.table.offset, clustersOf(snapshots.table.length), "the snapshot table");
  for (let index = 0; index < refcounts.table.length; index++) {
    const offset = refcounts.table[index] as number;
    if (offset === 0) continue;
    if (offset % clusterSize !== 0) throw corrupt(`refcount block ${index} is said to stand at ${offset}`);
    if (checks("refcount-block")) visit(offset, 1, "a refcount block");
  }
  for (let index = 0; index < header.l1Entries && checks("active-l2"); index++) {
    const { hostOffset } = readL1Entry(l1, index, clusterSize);
    if (hostOffset !== 0) visit(hostOffset, 1, "an L2 table");
  }
}
