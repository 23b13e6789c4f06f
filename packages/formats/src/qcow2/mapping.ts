/**
 * The map of an open qcow2 image: guest clusters through L1 and L2 tables to host clusters (qcow2 specification,
 * "Cluster mapping"). Changes are made in memory; write-back.ts brings them to the file in crash-safe order.
 */
import { alignDown, alignUp, assert, BlockError, type Co } from "@spindle/base";
import type { Allocation, ClusterMap, IoVector, Mapping } from "@spindle/block";
import { CompressedReader, CompressedWriter } from "./compress.ts";
import type { Corruption } from "./corruption.ts";
import { EntryChanges } from "./entry-changes.ts";
import { type Entry, NO_CLUSTER, UNALLOCATED } from "./entry-layout.ts";
import { hasFileHoles } from "./file-holes.ts";
import type { ImageState } from "./image-state.ts";
import type { CompressedPlace } from "./l2-entry.ts";
import { L2Tables } from "./l2-tables.ts";
import { overlap } from "./metadata-name.ts";
import { corrupt } from "./refcount.ts";
import type { CachedTable } from "./table-cache.ts";
import type { WriteBack } from "./write-back.ts";

export class Qcow2ClusterMap implements ClusterMap {
  readonly clusterSize: number;
  readonly subclusterSize: number;
  readonly #state: ImageState;
  readonly #writeBack: WriteBack;
  readonly #tables: L2Tables;
  readonly #changes: EntryChanges;
  readonly #compressed: CompressedReader;
  readonly #compressor: CompressedWriter;
  readonly #corruption: Corruption;
  /** Found out once, as in QEMU. */
  #hasFileHoles: boolean | undefined;

  constructor(state: ImageState, writeBack: WriteBack, corruption: Corruption) {
    this.clusterSize = state.clusterSize;
    this.subclusterSize = state.entries.subclusterSize;
    this.#state = state;
    this.#corruption = corruption;
    this.#writeBack = writeBack;
    this.#tables = new L2Tables(state);
    this.#compressed = new CompressedReader(state);
    this.#compressor = new CompressedWriter(state);
    this.#changes = new EntryChanges(state, this.#tables, writeBack, () => this.forgetCompressed());
  }

  *lookup(offset: number, length: number): Co<Mapping> {
    try {
      return yield* this.#lookup(offset, length);
    } catch (error) {
      yield* this.#corruption.met(error);
      throw error;
    }
  }

  *#lookup(offset: number, length: number): Co<Mapping> {
    const { clusterSize, subclusterSize } = this;
    const { entries, entriesPerTable } = this.#state;
    const clusterIndex = Math.floor(offset / clusterSize);
    const l1Index = Math.floor(clusterIndex / entriesPerTable);
    const inCluster = offset % clusterSize;
    const most = Math.min(length, (l1Index + 1) * entriesPerTable * clusterSize - offset);
    const table = this.#tables.cached(l1Index) ?? (yield* this.#tables.load(l1Index));
    if (table === undefined) return { kind: "unallocated", length: most };
    const index = clusterIndex % entriesPerTable;
    const first = entries.read(table.view, index);
    const subcluster = Math.floor(inCluster / subclusterSize);
    const kind = entries.kindOf(first, subcluster);
    if (first.compressed && this.#state.hasDataFile)
      throw corrupt("Compressed cluster entry found in image with external data file");
    const limit = index + Math.ceil((inCluster + most) / clusterSize);
    const run = entries.run(table.view, index, limit, subcluster, first);
    const runLength = Math.min((subcluster + run) * subclusterSize - inCluster, most);
    if (first.hostOffset === NO_CLUSTER) return { kind, length: runLength };
    const hostOffset = first.hostOffset + inCluster;
    if (kind === "data" && this.#state.lacksDataFile) throw new BlockError("EIO", "the image's data file is not open");
    if (this.#state.hasDataFile && hostOffset !== offset)
      throw corrupt(
        `External data file host cluster offset 0x${first.hostOffset.toString(16)} does not match guest cluster ` +
          `offset: 0x${(offset - inCluster).toString(16)} (L2 index: 0x${index.toString(16)})`,
      );
    if (kind !== "data") return { kind, length: runLength, hostOffset };
    return { kind, length: runLength, hostOffset, writable: this.#mayOverwrite(first, inCluster + runLength) };
  }

  /** A cluster that is metadata as well is never written in place; giving it up, as a write elsewhere does, is refused. */
  #mayOverwrite({ copied, hostOffset }: Entry, length: number): boolean {
    const { hasDataFile, isDamaged, metadata } = this.#state;
    if (!copied || isDamaged) return false;
    return hasDataFile || !metadata.touches(hostOffset / this.clusterSize, Math.ceil(length / this.clusterSize));
  }

  allocate(guestOffset: number, length: number, gaps = false, behind?: number): Co<Allocation> {
    return this.#corruption.watch(this.#allocate(guestOffset, length, gaps, behind));
  }

  *#allocate(guestOffset: number, length: number, gaps: boolean, behind = Number.NaN): Co<Allocation> {
    const { clusterSize } = this;
    const { entries, entriesPerTable, allocator, hasDataFile } = this.#state;
    assert(length > 0, "something is allocated");
    if (this.#writeBack.hasReclaimable) yield* this.#writeBack.reclaim();
    // An allocation stays inside of one L2 table, so that publishing it changes that table or fails.
    const tableBytes = entriesPerTable * clusterSize;
    const end = Math.min(guestOffset + length, alignDown(guestOffset, tableBytes) + tableBytes);
    // The table takes its place before the data, as in QEMU: images are laid out alike.
    const table = yield* this.#tables.writable(Math.floor(guestOffset / tableBytes));
    const index = Math.floor(guestOffset / clusterSize) % entriesPerTable;
    const first = entries.read(table.view, index);
    if (isOwn(first)) return this.#reuse(table, first, guestOffset, end);
    const start = alignDown(guestOffset, clusterSize);
    const count = this.#countNew(table, index, Math.ceil((end - start) / clusterSize));
    const run = hasDataFile
      ? { index: start / clusterSize, count }
      : yield* allocator.allocate(count, gaps ? 1 : count, behind / clusterSize);
    const last = Math.min(end, start + run.count * clusterSize);
    const from = this.#firstMoved(first, guestOffset);
    const to = this.#endMoved(entries.read(table.view, index + run.count - 1), last);
    const hostOffset = run.index * clusterSize + (from - start);
    return { guestOffset: from, length: to - from, hostOffset, reserved: true };
  }

  /** How many of `most` clusters from `index` on need host clusters, at least one. */
  #countNew({ view }: CachedTable, index: number, most: number): number {
    const { entries } = this.#state;
    let count = 0;
    while (count < most) {
      const entry = entries.read(view, index + count);
      if (isOwn(entry)) break;
      count += entries.extended ? 1 : entries.run(view, index + count, index + most, 0, entry);
    }
    return count;
  }

  /** The subclusters of the range that have room in clusters of their own, side by side. */
  #reuse({ view }: CachedTable, first: Entry, guestOffset: number, end: number): Allocation {
    const { clusterSize, subclusterSize } = this;
    const { entries, entriesPerTable } = this.#state;
    const start = alignDown(guestOffset, clusterSize);
    const index = (start / clusterSize) % entriesPerTable;
    const from = alignDown(guestOffset, subclusterSize);
    let to = from + subclusterSize;
    for (; to < end; to += subclusterSize) {
      const distance = to - start;
      if (distance % clusterSize !== 0) continue;
      const entry = entries.read(view, index + distance / clusterSize);
      if (!isOwn(entry) || entry.hostOffset !== first.hostOffset + distance) break;
    }
    const { hasDataFile, metadata } = this.#state;
    const cluster = first.hostOffset / clusterSize;
    if (!hasDataFile && metadata.touches(cluster, Math.ceil((to - start) / clusterSize)))
      throw overlap(this.#state, cluster);
    return { guestOffset: from, length: to - from, hostOffset: first.hostOffset + (from - start), reserved: false };
  }

  /** Where a write in a cluster's new place has to begin, so that nothing of the old place is lost. */
  #firstMoved({ compressed, allocated }: Entry, offset: number): number {
    if (compressed) return alignDown(offset, this.clusterSize);
    const start = alignDown(offset, this.subclusterSize);
    if (allocated === 0) return start;
    const lowest = 31 - Math.clz32(allocated & -allocated);
    return Math.min(start, alignDown(offset, this.clusterSize) + lowest * this.subclusterSize);
  }

  /** The same for its end. */
  #endMoved({ compressed, allocated }: Entry, end: number): number {
    if (compressed) return alignUp(end, this.clusterSize);
    const highest = 32 - Math.clz32(allocated);
    return Math.max(
      alignUp(end, this.subclusterSize),
      alignUp(end, this.clusterSize) - this.clusterSize + highest * this.subclusterSize,
    );
  }

  *release({ hostOffset, length, reserved }: Allocation): Co<void> {
    if (reserved && !this.#state.hasDataFile)
      yield* this.#state.allocator.decrement(this.#changes.clustersOf(hostOffset, length));
  }

  publish({ guestOffset, length, hostOffset }: Allocation): Co<void> {
    const published = this.#changes.change(guestOffset, length, (old, distance, bits) => ({
      compressed: false,
      hostOffset: alignDown(hostOffset, this.clusterSize) + distance,
      copied: true,
      allocated: (old.allocated | bits) >>> 0,
      zero: (old.zero & ~bits) >>> 0,
    }));
    return this.#corruption.watch(published);
  }

  /** Gives whole guest clusters the reserved host clusters, which read as zeros; where subclusters can say so, nothing is in them. */
  attach(allocation: Allocation): Co<void> {
    const { guestOffset, length, hostOffset } = allocation;
    if (!this.#state.entries.extended) return this.publish(allocation);
    const attached = this.#changes.change(guestOffset, length, (old, distance) => {
      return { ...old, hostOffset: hostOffset + distance, copied: true };
    });
    return this.#corruption.watch(attached);
  }

  *zero(guestOffset: number, length: number, mayUnmap: boolean): Co<boolean> {
    const { header, children, entries } = this.#state;
    if (header.version < 3) {
      // Without zero clusters, what is not there has to be zeros.
      if (children.backing !== null) return false;
      yield* this.#changes.changeByTable(guestOffset, length, "present", () => UNALLOCATED);
      return true;
    }
    if (this.#state.isDataFileRaw) yield* this.#zeroRawData(guestOffset, length, mayUnmap);
    const isPart = length % this.clusterSize !== 0;
    if (isPart && (yield* this.lookup(guestOffset, length)).kind === "compressed") return false;
    yield* this.#changes.changeByTable(guestOffset, length, "everywhere", (old, _distance, bits) => {
      // Space that may not be given back stays with its guest cluster until that is written again.
      const kept = mayUnmap && bits === entries.all ? UNALLOCATED : old;
      return { ...kept, compressed: false, allocated: (kept.allocated & ~bits) >>> 0, zero: (old.zero | bits) >>> 0 };
    });
    if (mayUnmap && !this.#state.isDataFileRaw) yield* this.#discardData(guestOffset, length);
    return true;
  }

  *#zeroRawData(offset: number, length: number, mayUnmap: boolean): Co<void> {
    const { dataFile, header } = this.#state;
    const inside = Math.min(length, header.size - offset);
    if (inside > 0) yield* dataFile.writeZeroes(offset, inside, { mayUnmap });
  }

  /** Nothing points at these whole clusters any more: a data file can give their space back at once. */
  *#discardData(offset: number, length: number): Co<void> {
    const { dataFile, hasDataFile } = this.#state;
    const inside = Math.min(length, dataFile.length - offset);
    const isWhole = offset % this.clusterSize === 0 && length % this.clusterSize === 0;
    if (hasDataFile && isWhole && inside > 0) yield* dataFile.discard(offset, inside);
  }

  *discard(guestOffset: number, length: number): Co<void> {
    const { header, children, entries } = this.#state;
    const hasBacking = children.backing !== null;
    // Version 2 has no zero clusters: without its cluster the backing file's old data would show through again.
    if (header.version < 3 && hasBacking) return;
    // What had space reads as zeros for good, even if the image gets a backing file later.
    const where = hasBacking ? "everywhere" : "present";
    yield* this.#changes.changeByTable(guestOffset, length, where, (old) => {
      const isThere = old.compressed || old.hostOffset !== NO_CLUSTER;
      if (header.version < 3) return UNALLOCATED;
      return isThere || hasBacking ? { ...UNALLOCATED, zero: entries.all } : old;
    });
    yield* this.#discardData(guestOffset, length);
  }

  /** Lets whole clusters point at nothing: they are beyond the end of the disk now. */
  forget(guestOffset: number, length: number): Co<void> {
    return this.#changes.changeByTable(guestOffset, length, "present", () => UNALLOCATED);
  }

  *readCompressed(offset: number, vector: IoVector): Co<void> {
    const { entriesPerTable, entries } = this.#state;
    const clusterIndex = Math.floor(offset / this.clusterSize);
    const table = yield* this.#tables.load(Math.floor(clusterIndex / entriesPerTable));
    assert(table !== undefined, "a compressed cluster has an L2 table");
    const place = entries.readCompressed(table.view, clusterIndex % entriesPerTable);
    yield* this.#compressed.read(place, offset % this.clusterSize, vector);
  }

  /** The compressed form of a cluster, or of what there is of the disk's last one; undefined when it does not get smaller. */
  compress(guestOffset: number, bytes: Uint8Array): Uint8Array | undefined {
    const { clusterSize } = this;
    this.#checkPackable();
    if (guestOffset % clusterSize !== 0 || bytes.length > clusterSize)
      throw new BlockError("EINVAL", "whole clusters are compressed, one at a time", { offset: guestOffset });
    const cluster = new Uint8Array(clusterSize);
    cluster.set(bytes);
    return this.#compressor.compress(cluster);
  }

  /** Stores whole clusters that are compressed already. The caller holds them exclusively. */
  *writePacked(guestOffset: number, clusters: readonly Uint8Array[]): Co<void> {
    const { clusterSize } = this;
    this.#checkPackable();
    const tooLong = clusters.some(({ length }) => length === 0 || length >= clusterSize);
    if (guestOffset % clusterSize !== 0 || tooLong)
      throw new BlockError("EINVAL", "packed clusters are whole ones, and shorter than they were", {
        offset: guestOffset,
      });
    const { entriesPerTable } = this.#state;
    for (let done = 0; done < clusters.length; ) {
      const index = guestOffset / clusterSize + done;
      const end = Math.min(clusters.length, done + entriesPerTable - (index % entriesPerTable));
      yield* this.#writePackedRun(index * clusterSize, clusters.slice(done, end));
      done = end;
    }
  }

  #checkPackable(): void {
    if (this.#state.hasDataFile) throw new BlockError("ENOTSUP", "a data file holds no compressed clusters");
  }

  /** The same inside of one L2 table. */
  *#writePackedRun(guestOffset: number, clusters: readonly Uint8Array[]): Co<void> {
    const { clusterSize } = this;
    yield* this.#tables.writable(Math.floor(guestOffset / clusterSize / this.#state.entriesPerTable));
    const places = yield* this.#compressor.write(clusters);
    try {
      yield* this.#changes.change(guestOffset, clusters.length * clusterSize, (_old, distance) => {
        return places[distance / clusterSize] as CompressedPlace;
      });
    } catch (error) {
      for (const place of places) yield* this.#compressor.giveBack(place);
      throw error;
    }
  }

  /** What stood compressed somewhere may have been given up. */
  forgetCompressed(): void {
    this.#compressed.forget();
    this.#compressor.forget();
  }

  *hasFileHoles(): Co<boolean> {
    this.#hasFileHoles ??= yield* hasFileHoles(this.#state);
    return this.#hasFileHoles;
  }

  flush(): Co<void> {
    return this.#writeBack.flush();
  }
}

/** The guest cluster has a host cluster for itself. */
function isOwn({ hostOffset, copied }: Entry): boolean {
  return hostOffset !== NO_CLUSTER && copied;
}
