/**
 * The map of an open qcow2 image: guest clusters through L1 and L2 tables to host clusters (qcow2 specification,
 * "Cluster mapping"). Changes are made in memory; write-back.ts brings them to the file in crash-safe order.
 */
import { assert, BlockError, type Co } from "@spindle/base";
import { type Allocation, type ClusterMap, IoVector, type Mapping } from "@spindle/block";
import { CompressedReader, CompressedWriter } from "./compress.ts";
import type { ImageState } from "./image-state.ts";
import {
  type CompressedPlace,
  type Entry,
  readCompressedEntry,
  readEntry,
  readL1Entry,
  writeCompressedEntry,
  writeEntry,
  writeL1Entry,
} from "./l2-entry.ts";
import { corrupt } from "./refcount.ts";
import { type CachedTable, makeTable } from "./table-cache.ts";
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
  readonly #compressed: CompressedReader;
  readonly #compressor: CompressedWriter;

  constructor(state: ImageState, writeBack: WriteBack) {
    this.clusterSize = state.clusterSize;
    this.#state = state;
    this.#writeBack = writeBack;
    this.#compressed = new CompressedReader(state);
    this.#compressor = new CompressedWriter(state);
  }

  *lookup(offset: number, length: number): Co<Mapping> {
    const { clusterSize } = this;
    const { entriesPerTable, header } = this.#state;
    const clusterIndex = Math.floor(offset / clusterSize);
    const l1Index = Math.floor(clusterIndex / entriesPerTable);
    const inCluster = offset % clusterSize;
    const tableEnd = (l1Index + 1) * entriesPerTable * clusterSize;
    const most = Math.min(length, tableEnd - offset);
    const table = this.#state.l2.get(l1Index) ?? (yield* this.#loadTable(l1Index));
    if (table === undefined) return { kind: "unallocated", length: most };
    const index = clusterIndex % entriesPerTable;
    const first = readEntry(table.view, index, clusterSize, header.version);
    let run = clusterSize - inCluster;
    for (let next = index + 1; run < most; next++, run += clusterSize) {
      const entry = readEntry(table.view, next, clusterSize, header.version);
      if (entry.kind !== first.kind) break;
      if (entry.kind !== "data") continue;
      if (entry.hostOffset !== first.hostOffset + (next - index) * clusterSize || entry.copied !== first.copied) break;
    }
    const runLength = Math.min(run, most);
    if (first.kind !== "data") return { kind: first.kind, length: runLength };
    const writable = first.copied && !this.#holdsMetadata(first.hostOffset, inCluster + runLength);
    return { kind: "data", length: runLength, hostOffset: first.hostOffset + inCluster, writable };
  }

  *allocate(guestOffset: number, length: number): Co<Allocation> {
    const { clusterSize } = this;
    assert(guestOffset % clusterSize === 0 && length % clusterSize === 0 && length > 0, "whole clusters are allocated");
    yield* this.#writeBack.reclaim();
    const run = yield* this.#state.allocator.allocate(length / clusterSize);
    return { guestOffset, length: run.count * clusterSize, hostOffset: run.index * clusterSize };
  }

  *release({ hostOffset, length }: Allocation): Co<void> {
    const { clusterSize } = this;
    yield* this.#state.allocator.decrement({ index: hostOffset / clusterSize, count: length / clusterSize });
  }

  *publish({ guestOffset, length, hostOffset }: Allocation): Co<void> {
    yield* this.#change(guestOffset, length, (_old, distance) => {
      return { kind: "data", hostOffset: hostOffset + distance, copied: true };
    });
  }

  *zero(guestOffset: number, length: number, mayUnmap: boolean): Co<void> {
    const { header, children } = this.#state;
    if (header.version >= 3)
      return yield* this.#changeByTable(guestOffset, length, (old) => {
        // A cluster that is kept is overwritten in place later, without another allocation.
        const keep = !mayUnmap && old.hostOffset !== 0 && old.copied;
        return keep ? { kind: "zero", hostOffset: old.hostOffset, copied: true } : ZERO;
      });
    if (children.backing === null) return yield* this.#changeByTable(guestOffset, length, () => UNALLOCATED);
    return yield* this.#storeZeros(guestOffset, length);
  }

  *discard(guestOffset: number, length: number): Co<void> {
    const { header, children } = this.#state;
    const hasBacking = children.backing !== null;
    // Version 2 has no zero clusters: without its cluster the backing file's old data would show through again.
    if (header.version < 3 && hasBacking) return;
    yield* this.#changeByTable(guestOffset, length, (old) => {
      if (old.kind === "unallocated" && !hasBacking) return old;
      return hasBacking ? ZERO : UNALLOCATED;
    });
  }

  *readCompressed(offset: number, vector: IoVector): Co<void> {
    const { entriesPerTable, header } = this.#state;
    const clusterIndex = Math.floor(offset / this.clusterSize);
    const table = yield* this.#loadTable(Math.floor(clusterIndex / entriesPerTable));
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
    const place = yield* this.#compressor.write(cluster);
    if (place !== undefined) return yield* this.#change(guestOffset, clusterSize, () => place);
    const allocation = yield* this.allocate(guestOffset, clusterSize);
    yield* this.#state.file.write(allocation.hostOffset, IoVector.of(cluster));
    yield* this.publish(allocation);
  }

  flush(): Co<void> {
    return this.#writeBack.flush();
  }

  /** Replaces the entries of whole clusters, a table at a time, where some bytes of the change may come before others. */
  *#changeByTable(guestOffset: number, length: number, replace: Replace): Co<void> {
    const { clusterSize } = this;
    const tableBytes = this.#state.entriesPerTable * clusterSize;
    const hasBacking = this.#state.children.backing !== null;
    for (let offset = guestOffset; offset < guestOffset + length; ) {
      const l1Index = Math.floor(offset / tableBytes);
      const run = Math.min((l1Index + 1) * tableBytes, guestOffset + length) - offset;
      // Nothing is there, and nothing shows through: it reads as zeros already.
      const isEmpty = !hasBacking && (yield* this.#loadTable(l1Index)) === undefined;
      if (!isEmpty) yield* this.#change(offset, run, replace);
      offset += run;
    }
  }

  /**
   * Replaces the entries of whole clusters and frees what they pointed at: all of them, or none when it fails. What can
   * fail comes first; then entries are changed without a pause.
   */
  *#change(guestOffset: number, length: number, replace: Replace): Co<void> {
    const { clusterSize } = this;
    const { entriesPerTable, header } = this.#state;
    if (this.#state.l2.dirtyCount > DIRTY_TABLES_MAX) yield* this.#writeBack.writeBack();
    const first = guestOffset / clusterSize;
    const count = length / clusterSize;
    const firstTable = Math.floor(first / entriesPerTable);
    const tables: CachedTable[] = [];
    for (let l1Index = firstTable; l1Index * entriesPerTable < first + count; l1Index++)
      tables.push(yield* this.#writableTable(l1Index));
    const entries: Entry[] = [];
    for (let step = 0; step < count; step++) {
      const table = tables[Math.floor((first + step) / entriesPerTable) - firstTable] as CachedTable;
      const entry = readEntry(table.view, (first + step) % entriesPerTable, clusterSize, header.version);
      if (entry.hostOffset !== 0 && this.#holdsMetadata(entry.hostOffset, clusterSize))
        throw corrupt(`cluster ${entry.hostOffset / clusterSize} holds metadata and data`);
      entries.push(entry);
    }
    for (let step = 0; step < count; step++) {
      const table = tables[Math.floor((first + step) / entriesPerTable) - firstTable] as CachedTable;
      const index = (first + step) % entriesPerTable;
      const old = entries[step] as Entry;
      const entry = replace(old, step * clusterSize);
      this.#freeOld(table, index, old, entry.hostOffset);
      if ("kind" in entry) writeEntry(table.view, index, entry);
      else writeCompressedEntry(table.view, index, header.clusterBits, entry);
    }
    for (const table of tables) {
      // It may have been pushed out of the cache while another was read.
      this.#state.l2.put(table);
      this.#state.l2.markDirty(table);
    }
  }

  #freeOld(table: CachedTable, index: number, old: Entry, newHostOffset: number): void {
    const { clusterSize } = this;
    if (old.kind === "compressed") {
      const { hostOffset, length } = readCompressedEntry(table.view, index, this.#state.header.clusterBits);
      const first = Math.floor(hostOffset / clusterSize);
      const last = Math.floor((hostOffset + length - 1) / clusterSize);
      this.#compressed.forget();
      this.#state.free(first, last - first + 1);
    } else if (old.hostOffset !== 0 && old.hostOffset !== newHostOffset)
      this.#state.free(old.hostOffset / clusterSize, 1);
  }

  /** The L2 table of an L1 entry, or undefined when there is none. */
  *#loadTable(l1Index: number): Co<CachedTable | undefined> {
    const cached = this.#state.l2.get(l1Index);
    if (cached !== undefined) return cached;
    if (l1Index >= this.#state.header.l1Entries) return undefined;
    if (readL1Entry(this.#state.l1, l1Index, this.clusterSize).hostOffset === 0) return undefined;
    return yield* this.#state.tableMutex.run(() => this.#readTable(l1Index));
  }

  /** The caller holds the table mutex. */
  *#readTable(l1Index: number): Co<CachedTable | undefined> {
    const state = this.#state;
    const cached = state.l2.get(l1Index);
    if (cached !== undefined) return cached;
    const { hostOffset } = readL1Entry(state.l1, l1Index, this.clusterSize);
    if (hostOffset === 0) return undefined;
    const { file } = state;
    if (hostOffset >= file.length) throw corrupt(`L2 table ${l1Index} stands beyond the end of the image file`);
    const bytes = new Uint8Array(this.clusterSize);
    yield* file.read(hostOffset, IoVector.of(bytes.subarray(0, Math.min(bytes.length, file.length - hostOffset))));
    const table = makeTable(l1Index, hostOffset, bytes);
    state.l2.put(table);
    return table;
  }

  /** The L2 table of an L1 entry, made or copied as needed so that it may be changed. */
  *#writableTable(l1Index: number): Co<CachedTable> {
    const cached = this.#state.l2.get(l1Index);
    if (cached !== undefined && readL1Entry(this.#state.l1, l1Index, this.clusterSize).copied) return cached;
    return yield* this.#state.tableMutex.run(() => this.#makeWritable(l1Index));
  }

  *#makeWritable(l1Index: number): Co<CachedTable> {
    const state = this.#state;
    assert(l1Index < state.header.l1Entries, "the L1 table covers the disk");
    const old = yield* this.#readTable(l1Index);
    const entry = readL1Entry(state.l1, l1Index, this.clusterSize);
    if (old !== undefined && entry.copied) return old;
    const run = yield* state.allocator.allocate(1);
    const hostOffset = run.index * this.clusterSize;
    const bytes = old === undefined ? new Uint8Array(this.clusterSize) : old.bytes.slice();
    const table = makeTable(l1Index, hostOffset, bytes);
    table.fresh = true;
    state.metadata.add(run.index);
    if (old !== undefined) {
      // A snapshot goes on using the old table.
      state.l2.remove(old);
      state.free(entry.hostOffset / this.clusterSize, 1);
    }
    state.l2.put(table);
    state.l2.markDirty(table);
    writeL1Entry(state.l1, l1Index, { hostOffset, copied: true });
    state.dirtyL1.add(Math.floor((l1Index * 8) / 512));
    return table;
  }

  *#storeZeros(guestOffset: number, length: number): Co<void> {
    for (let done = 0; done < length; ) {
      const allocation = yield* this.allocate(guestOffset + done, length - done);
      try {
        yield* this.#state.file.writeZeroes(allocation.hostOffset, allocation.length);
        yield* this.publish(allocation);
      } catch (error) {
        yield* this.release(allocation);
        throw error;
      }
      done += allocation.length;
    }
  }

  /** Such a cluster is never written in place; giving it up, as a write elsewhere does, is refused. */
  #holdsMetadata(hostOffset: number, length: number): boolean {
    const { metadata } = this.#state;
    const end = Math.ceil((hostOffset + length) / this.clusterSize);
    for (let index = hostOffset / this.clusterSize; index < end; index++) {
      if (metadata.has(index)) return true;
    }
    return false;
  }
}
