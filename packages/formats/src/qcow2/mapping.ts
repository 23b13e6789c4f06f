/**
 * The map of an open qcow2 image: guest clusters through L1 and L2 tables to host clusters (qcow2 specification,
 * "Cluster mapping"). Changes are made in memory; write-back.ts brings them to the file in crash-safe order.
 */
import { assert, BlockError, type Co } from "@spindle/base";
import { type Allocation, type ClusterMap, IoVector, type Mapping } from "@spindle/block";
import { CompressedReader, CompressedWriter } from "./compress.ts";
import type { Corruption } from "./corruption.ts";
import type { ImageState } from "./image-state.ts";
import {
  type CompressedPlace,
  type Entry,
  readCompressedEntry,
  readEntry,
  runOfEntries,
  writeCompressedEntry,
  writeEntry,
} from "./l2-entry.ts";
import { L2Tables } from "./l2-tables.ts";
import { overlap } from "./metadata-name.ts";
import type { CachedTable } from "./table-cache.ts";
import type { WriteBack } from "./write-back.ts";

/** Changed L2 tables are written when they are this many, so that they take bounded memory. */
const DIRTY_TABLES_MAX = 64;

const ZERO: Entry = { kind: "zero", hostOffset: 0, copied: false };
const UNALLOCATED: Entry = { kind: "unallocated", hostOffset: 0, copied: false };

/** What an entry becomes: a plain one, or the place of compressed data. */
type Replace = (old: Entry, distance: number) => Entry | CompressedPlace;

export class Qcow2ClusterMap implements ClusterMap {
  readonly clusterSize: number;
  readonly #state: ImageState;
  readonly #writeBack: WriteBack;
  readonly #tables: L2Tables;
  readonly #compressed: CompressedReader;
  readonly #compressor: CompressedWriter;
  readonly #corruption: Corruption;

  constructor(state: ImageState, writeBack: WriteBack, corruption: Corruption) {
    this.clusterSize = state.clusterSize;
    this.#state = state;
    this.#corruption = corruption;
    this.#writeBack = writeBack;
    this.#tables = new L2Tables(state);
    this.#compressed = new CompressedReader(state);
    this.#compressor = new CompressedWriter(state);
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
    const { clusterSize } = this;
    const { entriesPerTable, header, metadata } = this.#state;
    const clusterIndex = Math.floor(offset / clusterSize);
    const l1Index = Math.floor(clusterIndex / entriesPerTable);
    const inCluster = offset % clusterSize;
    const most = Math.min(length, (l1Index + 1) * entriesPerTable * clusterSize - offset);
    const table = this.#tables.cached(l1Index) ?? (yield* this.#tables.load(l1Index));
    if (table === undefined) return { kind: "unallocated", length: most };
    const index = clusterIndex % entriesPerTable;
    const first = readEntry(table.view, index, clusterSize, header.version);
    const limit = Math.ceil((inCluster + most) / clusterSize);
    const count = limit === 1 ? 1 : runOfEntries(table.view, index, limit, clusterSize, header.version);
    const runLength = Math.min(count * clusterSize - inCluster, most);
    if (first.kind === "zero" && first.hostOffset !== 0)
      return { kind: "zero", length: runLength, hostOffset: first.hostOffset + inCluster };
    if (first.kind !== "data") return { kind: first.kind, length: runLength };
    // A cluster that is metadata as well is never written in place; giving it up, as a write elsewhere does, is refused.
    const isOurs = first.copied && !this.#state.isDamaged;
    const writable = isOurs && !metadata.touches(first.hostOffset / clusterSize, count);
    return { kind: "data", length: runLength, hostOffset: first.hostOffset + inCluster, writable };
  }

  allocate(guestOffset: number, length: number): Co<Allocation> {
    return this.#corruption.watch(this.#allocate(guestOffset, length));
  }

  *#allocate(guestOffset: number, length: number): Co<Allocation> {
    const { clusterSize } = this;
    assert(guestOffset % clusterSize === 0 && length % clusterSize === 0 && length > 0, "whole clusters are allocated");
    if (this.#writeBack.hasReclaimable) yield* this.#writeBack.reclaim();
    // An allocation stays inside of one L2 table, so that publishing it changes that table or fails.
    const tableBytes = this.#state.entriesPerTable * clusterSize;
    const most = Math.min(length, tableBytes - (guestOffset % tableBytes));
    // The table takes its place before the data, as in QEMU: images are laid out alike.
    yield* this.#tables.writable(Math.floor(guestOffset / tableBytes));
    const run = yield* this.#state.allocator.allocate(most / clusterSize);
    return { guestOffset, length: run.count * clusterSize, hostOffset: run.index * clusterSize };
  }

  *release({ hostOffset, length }: Allocation): Co<void> {
    const { clusterSize } = this;
    yield* this.#state.allocator.decrement({ index: hostOffset / clusterSize, count: length / clusterSize });
  }

  publish({ guestOffset, length, hostOffset }: Allocation): Co<void> {
    const published = this.#change(guestOffset, length, (_old, distance) => {
      return { kind: "data", hostOffset: hostOffset + distance, copied: true };
    });
    return this.#corruption.watch(published);
  }

  *zero(guestOffset: number, length: number, mayUnmap: boolean): Co<void> {
    const { header, children } = this.#state;
    if (header.version >= 3)
      return yield* this.#changeByTable(
        guestOffset,
        length,
        (old) => {
          // Space that may not be given back stays with its guest cluster until that is written again.
          const keep = !mayUnmap && old.hostOffset !== 0 && old.copied;
          return keep ? { kind: "zero", hostOffset: old.hostOffset, copied: true } : ZERO;
        },
        "with-tables",
      );
    if (children.backing === null) return yield* this.#changeByTable(guestOffset, length, () => UNALLOCATED);
    return yield* this.storeZeros(guestOffset, length);
  }

  *discard(guestOffset: number, length: number): Co<void> {
    const { header, children } = this.#state;
    const hasBacking = children.backing !== null;
    // Version 2 has no zero clusters: without its cluster the backing file's old data would show through again.
    if (header.version < 3 && hasBacking) return;
    // What had space reads as zeros for good, even if the image gets a backing file later.
    const leaves = (old: Entry): Entry =>
      header.version < 3 || (old.kind === "unallocated" && !hasBacking) ? UNALLOCATED : ZERO;
    yield* this.#changeByTable(guestOffset, length, leaves);
  }

  /** Lets whole clusters point at nothing: they are beyond the end of the disk now. */
  *forget(guestOffset: number, length: number): Co<void> {
    const tableBytes = this.#state.entriesPerTable * this.clusterSize;
    for (let offset = guestOffset; offset < guestOffset + length; ) {
      const l1Index = Math.floor(offset / tableBytes);
      const run = Math.min((l1Index + 1) * tableBytes, guestOffset + length) - offset;
      if ((yield* this.#tables.load(l1Index)) !== undefined) yield* this.#change(offset, run, () => UNALLOCATED);
      offset += run;
    }
  }

  *readCompressed(offset: number, vector: IoVector): Co<void> {
    const { entriesPerTable, header } = this.#state;
    const clusterIndex = Math.floor(offset / this.clusterSize);
    const table = yield* this.#tables.load(Math.floor(clusterIndex / entriesPerTable));
    assert(table !== undefined, "a compressed cluster has an L2 table");
    const place = readCompressedEntry(table.view, clusterIndex % entriesPerTable, header.clusterBits);
    yield* this.#compressed.read(place, offset % this.clusterSize, vector);
  }

  /** Writes one cluster compressed, or plainly when it does not get smaller. The caller holds it exclusively. */
  *writeCompressed(guestOffset: number, bytes: Uint8Array): Co<void> {
    const { clusterSize } = this;
    if (guestOffset % clusterSize !== 0 || bytes.length > clusterSize)
      throw new BlockError("EINVAL", "whole clusters are compressed, one at a time", { offset: guestOffset });
    const cluster = new Uint8Array(clusterSize);
    cluster.set(bytes);
    const packed = this.#compressor.compress(cluster);
    if (packed !== undefined) return yield* this.writePacked(guestOffset, [packed]);
    const allocation = yield* this.allocate(guestOffset, clusterSize);
    try {
      yield* this.#state.file.write(allocation.hostOffset, IoVector.of(cluster));
      yield* this.publish(allocation);
    } catch (error) {
      yield* this.release(allocation);
      throw error;
    }
  }

  /** Stores whole clusters that are compressed already. The caller holds them exclusively. */
  *writePacked(guestOffset: number, clusters: readonly Uint8Array[]): Co<void> {
    const { clusterSize } = this;
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

  /** The same inside of one L2 table. */
  *#writePackedRun(guestOffset: number, clusters: readonly Uint8Array[]): Co<void> {
    const { clusterSize } = this;
    yield* this.#tables.writable(Math.floor(guestOffset / clusterSize / this.#state.entriesPerTable));
    const places = yield* this.#compressor.write(clusters);
    try {
      yield* this.#change(guestOffset, clusters.length * clusterSize, (_old, distance) => {
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

  flush(): Co<void> {
    return this.#writeBack.flush();
  }

  /**
   * Replaces the entries of whole clusters, a table at a time: some may have changed when it fails.
   * @param missing makes the tables that are not there, also where nothing shows through
   */
  *#changeByTable(guestOffset: number, length: number, replace: Replace, missing?: "with-tables"): Co<void> {
    const tableBytes = this.#state.entriesPerTable * this.clusterSize;
    const hasBacking = this.#state.children.backing !== null;
    for (let offset = guestOffset; offset < guestOffset + length; ) {
      const l1Index = Math.floor(offset / tableBytes);
      const run = Math.min((l1Index + 1) * tableBytes, guestOffset + length) - offset;
      // Nothing is there, and nothing shows through: it reads as zeros already.
      const isEmpty = missing === undefined && !hasBacking && (yield* this.#tables.load(l1Index)) === undefined;
      if (!isEmpty) yield* this.#change(offset, run, replace);
      offset += run;
    }
  }

  /**
   * Replaces the entries of whole clusters of one L2 table and frees what they pointed at: all of them, or none when it
   * fails. What can fail comes first; then entries are changed without a pause.
   */
  *#change(guestOffset: number, length: number, replace: Replace): Co<void> {
    const { clusterSize } = this;
    const { entriesPerTable, l2 } = this.#state;
    if (l2.dirtyCount > DIRTY_TABLES_MAX) yield* this.#writeBack.writeBack();
    const clusterIndex = guestOffset / clusterSize;
    const first = clusterIndex % entriesPerTable;
    const count = length / clusterSize;
    assert(first + count <= entriesPerTable, "a change stays inside of one L2 table");
    const table = yield* this.#tables.writable(Math.floor(clusterIndex / entriesPerTable));
    this.#checkReplaceable(table, first, count);
    for (let step = 0; step < count; step++) this.#replace(table, first + step, step * clusterSize, replace);
    l2.markDirty(table);
  }

  /** @throws {BlockError} EIO when an entry cannot be true: then giving up what it points at would do damage. */
  #checkReplaceable(table: CachedTable, first: number, count: number): void {
    const { clusterSize } = this;
    const { header, metadata } = this.#state;
    for (let index = first; index < first + count; index++) {
      const { kind, hostOffset } = readEntry(table.view, index, clusterSize, header.version);
      const place = kind === "compressed" ? readCompressedEntry(table.view, index, header.clusterBits) : { hostOffset };
      const run = this.#clustersOf(place.hostOffset, "length" in place ? place.length : clusterSize);
      if (place.hostOffset !== 0 && metadata.touches(run.index, run.count)) throw overlap(this.#state, run.index);
    }
  }

  #replace(table: CachedTable, index: number, distance: number, replace: Replace): void {
    const { clusterSize } = this;
    const { header } = this.#state;
    const old = readEntry(table.view, index, clusterSize, header.version);
    const entry = replace(old, distance);
    if (old.kind === "compressed") {
      const { hostOffset, length } = readCompressedEntry(table.view, index, header.clusterBits);
      const run = this.#clustersOf(hostOffset, length);
      this.#compressed.forget();
      this.#compressor.forget();
      this.#state.free(run.index, run.count);
    } else if (old.hostOffset !== 0 && old.hostOffset !== entry.hostOffset)
      this.#state.free(old.hostOffset / clusterSize, 1);
    if ("kind" in entry) writeEntry(table.view, index, entry);
    else writeCompressedEntry(table.view, index, header.clusterBits, entry);
  }

  #clustersOf(hostOffset: number, length: number): { index: number; count: number } {
    const index = Math.floor(hostOffset / this.clusterSize);
    return { index, count: Math.floor((hostOffset + length - 1) / this.clusterSize) - index + 1 };
  }

  /** Gives whole clusters clusters of zeros. */
  *storeZeros(guestOffset: number, length: number): Co<void> {
    for (let done = 0; done < length; ) {
      const allocation = yield* this.allocate(guestOffset + done, length - done);
      try {
        yield* this.#state.file.writeZeroes(allocation.hostOffset, allocation.length, {});
        yield* this.publish(allocation);
      } catch (error) {
        yield* this.release(allocation);
        throw error;
      }
      done += allocation.length;
    }
  }
}
