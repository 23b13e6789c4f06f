/**
 * The L2 tables of an open qcow2 image: read from the file when they are looked at, made or copied when they are to be
 * changed. Copies happen where a snapshot goes on using the old table.
 */
import { assert, type Co } from "@spindle/base";
import { IoVector } from "@spindle/block";
import type { ImageState } from "./image-state.ts";
import { readL1Entry, writeL1Entry } from "./l2-entry.ts";
import { corrupt } from "./refcount.ts";
import { type CachedTable, makeTable } from "./table-cache.ts";

export class L2Tables {
  readonly #state: ImageState;

  constructor(state: ImageState) {
    this.#state = state;
  }

  /** The table when it is in memory. */
  cached(l1Index: number): CachedTable | undefined {
    return this.#state.l2.get(l1Index);
  }

  /** The table of an L1 entry, or undefined when there is none. */
  *load(l1Index: number): Co<CachedTable | undefined> {
    const state = this.#state;
    const cached = state.l2.get(l1Index);
    if (cached !== undefined) return cached;
    if (l1Index >= state.header.l1Entries) return undefined;
    if (readL1Entry(state.l1, l1Index, state.clusterSize).hostOffset === 0) return undefined;
    return yield* state.tableMutex.run(() => this.#read(l1Index));
  }

  /** The table of an L1 entry, made or copied as needed so that it may be changed. */
  *writable(l1Index: number): Co<CachedTable> {
    const state = this.#state;
    const cached = state.l2.get(l1Index);
    if (cached !== undefined && readL1Entry(state.l1, l1Index, state.clusterSize).copied) return cached;
    return yield* state.tableMutex.run(() => this.#makeWritable(l1Index));
  }

  /** The caller holds the table mutex. */
  *#read(l1Index: number): Co<CachedTable | undefined> {
    const { l2, l1, clusterSize, file } = this.#state;
    const cached = l2.get(l1Index);
    if (cached !== undefined) return cached;
    const { hostOffset } = readL1Entry(l1, l1Index, clusterSize);
    if (hostOffset === 0) return undefined;
    const { length } = file;
    if (hostOffset >= length) throw corrupt(`L2 table ${l1Index} stands beyond the end of the image file`);
    const bytes = new Uint8Array(clusterSize);
    yield* file.tell("l2_load");
    yield* file.read(hostOffset, IoVector.of(bytes.subarray(0, Math.min(clusterSize, length - hostOffset))));
    const table = makeTable(l1Index, hostOffset, bytes);
    l2.put(table);
    return table;
  }

  *#makeWritable(l1Index: number): Co<CachedTable> {
    const state = this.#state;
    assert(l1Index < state.header.l1Entries, "the L1 table covers the disk");
    const old = yield* this.#read(l1Index);
    const entry = readL1Entry(state.l1, l1Index, state.clusterSize);
    if (old !== undefined && entry.copied) return old;
    if (old !== undefined) yield* state.file.tell("l2_alloc_cow_read");
    const { index } = yield* state.allocator.allocate(1);
    const hostOffset = index * state.clusterSize;
    const bytes = old === undefined ? new Uint8Array(state.clusterSize) : old.bytes.slice();
    const table = makeTable(l1Index, hostOffset, bytes);
    table.fresh = true;
    state.metadata.add(index);
    if (old !== undefined) {
      const oldIndex = entry.hostOffset / state.clusterSize;
      state.l2.remove(old);
      state.metadata.delete(oldIndex);
      state.free(oldIndex, 1);
    }
    state.l2.put(table);
    state.l2.markDirty(table);
    writeL1Entry(state.l1, l1Index, { hostOffset, copied: true });
    state.dirtyL1.add(Math.floor((l1Index * 8) / 512));
    return table;
  }
}
