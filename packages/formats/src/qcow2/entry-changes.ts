/**
 * Replaces entries of L2 tables, and frees what they pointed at. What can fail comes first; then the entries of one table
 * are changed without a pause, so that a request's change is there as a whole or not at all.
 */
import { assert, type Co } from "@spindle/base";
import type { ClusterRun } from "./allocate.ts";
import { type Entry, NO_CLUSTER } from "./entry-layout.ts";
import type { ImageState } from "./image-state.ts";
import type { CompressedPlace } from "./l2-entry.ts";
import type { L2Tables } from "./l2-tables.ts";
import { overlap } from "./metadata-name.ts";
import type { CachedTable } from "./table-cache.ts";
import type { WriteBack } from "./write-back.ts";

/** Changed L2 tables are written when they are this many, so that they take bounded memory. */
const DIRTY_TABLES_MAX = 64;

/**
 * What an entry becomes: a plain one, or the place of compressed data.
 * @param distance bytes from the first cluster of the change to this one
 * @param bits the subclusters of it that the change is about
 */
type Replace = (old: Entry, distance: number, bits: number) => Entry | CompressedPlace;

export class EntryChanges {
  readonly #state: ImageState;
  readonly #tables: L2Tables;
  readonly #writeBack: WriteBack;
  readonly #compressedFreed: () => void;

  /** @param compressedFreed hears that compressed data was given up */
  constructor(state: ImageState, tables: L2Tables, writeBack: WriteBack, compressedFreed: () => void) {
    this.#state = state;
    this.#tables = tables;
    this.#writeBack = writeBack;
    this.#compressedFreed = compressedFreed;
  }

  /**
   * Replaces the entries of whole subclusters, a table at a time: some may have changed when it fails.
   * @param where tables that are missing are made, or left out
   */
  *changeByTable(guestOffset: number, length: number, where: "everywhere" | "present", replace: Replace): Co<void> {
    const tableBytes = this.#state.entriesPerTable * this.#state.clusterSize;
    for (let offset = guestOffset; offset < guestOffset + length; ) {
      const l1Index = Math.floor(offset / tableBytes);
      const run = Math.min((l1Index + 1) * tableBytes, guestOffset + length) - offset;
      const isWanted = where === "everywhere" || (yield* this.#tables.load(l1Index)) !== undefined;
      if (isWanted) yield* this.change(offset, run, replace);
      offset += run;
    }
  }

  /** Replaces the entries of whole subclusters of one L2 table: all of them, or none when it fails. */
  *change(guestOffset: number, length: number, replace: Replace): Co<void> {
    const { clusterSize, entries, entriesPerTable, l2 } = this.#state;
    const { subclusterSize } = entries;
    if (l2.dirtyCount > DIRTY_TABLES_MAX) yield* this.#writeBack.writeBack();
    const clusterIndex = Math.floor(guestOffset / clusterSize);
    const start = (guestOffset % clusterSize) / subclusterSize;
    const end = start + length / subclusterSize;
    assert(Number.isInteger(start) && Number.isInteger(end), "whole subclusters are changed");
    const first = clusterIndex % entriesPerTable;
    const count = Math.ceil(end / entries.subclusters);
    assert(first + count <= entriesPerTable, "a change stays inside of one L2 table");
    const table = yield* this.#tables.writable(Math.floor(clusterIndex / entriesPerTable));
    this.#checkReplaceable(table, first, count);
    for (let step = 0; step < count; step++) {
      const from = Math.max(0, start - step * entries.subclusters);
      const to = Math.min(entries.subclusters, end - step * entries.subclusters);
      const bits = entries.bits(from, to - from);
      this.#replace(table, first + step, (old) => replace(old, step * clusterSize, bits));
    }
    l2.markDirty(table);
  }

  /** The host clusters that a range of the file touches. */
  clustersOf(hostOffset: number, length: number): ClusterRun {
    const { clusterSize } = this.#state;
    const index = Math.floor(hostOffset / clusterSize);
    return { index, count: Math.floor((hostOffset + length - 1) / clusterSize) - index + 1 };
  }

  /** @throws {BlockError} EIO when an entry cannot be true: then giving up what it points at would do damage. */
  #checkReplaceable(table: CachedTable, first: number, count: number): void {
    const { metadata } = this.#state;
    for (let index = first; index < first + count; index++) {
      const run = this.#usedBy(table, index, this.#state.entries.read(table.view, index));
      if (run !== undefined && metadata.touches(run.index, run.count)) throw overlap(this.#state, run.index);
    }
  }

  #replace(table: CachedTable, index: number, replace: (old: Entry) => Entry | CompressedPlace): void {
    const { entries } = this.#state;
    const old = entries.read(table.view, index);
    const entry = replace(old);
    const isKept = !old.compressed && "allocated" in entry && entry.hostOffset === old.hostOffset;
    const used = isKept ? undefined : this.#usedBy(table, index, old);
    if (old.compressed) this.#compressedFreed();
    if (used !== undefined) this.#state.free(used.index, used.count);
    if ("allocated" in entry) entries.write(table.view, index, entry);
    else entries.writeCompressed(table.view, index, entry);
  }

  /** The host clusters that an entry points at, where they are counted. */
  #usedBy(table: CachedTable, index: number, { compressed, hostOffset }: Entry): ClusterRun | undefined {
    const { clusterSize, entries, hasDataFile } = this.#state;
    if (hasDataFile) return undefined;
    if (compressed) {
      const place = entries.readCompressed(table.view, index);
      return this.clustersOf(place.hostOffset, place.length);
    }
    return hostOffset === NO_CLUSTER ? undefined : { index: hostOffset / clusterSize, count: 1 };
  }
}
