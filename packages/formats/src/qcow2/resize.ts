/**
 * Changes the length of the disk. What a longer disk needs is there before the header tells the new length; what is beyond
 * the end of a shorter one is gone before that, and its space given up behind it. So a crash leaves the old length or
 * the new one, and leaked clusters at worst; when the disk was to become shorter, what was beyond may be gone already.
 */
import { alignDown, alignUp, BlockError, ByteView, type Co } from "@spindle/base";
import { IoVector, type Preallocation } from "@spindle/block";
import type { ImageState } from "./image-state.ts";
import { readL1Entry, writeL1Entry } from "./l2-entry.ts";
import type { Qcow2ClusterMap } from "./mapping.ts";
import { preallocateClusters } from "./preallocate.ts";
import type { WriteBack } from "./write-back.ts";

const L1_BYTES_MAX = 32 * 1024 * 1024;
/** Where the header holds the disk's length, and behind the method of encryption the L1 table's entries and offset. */
const HEADER_SIZE = 24;
const HEADER_L1 = 36;

export interface ResizeParts {
  readonly state: ImageState;
  readonly map: Qcow2ClusterMap;
  readonly writeBack: WriteBack;
  /** Makes a range of the disk read as zeros, parts of clusters too. */
  readonly writeZeroes: (offset: number, length: number) => Co<void>;
}

/** @throws {BlockError} EINVAL for a length that is no multiple of 512, ENOTSUP, EFBIG, ENOSPC; the length is as before then. */
export function* resizeImage(parts: ResizeParts, length: number, preallocation: Preallocation): Co<void> {
  const { header } = parts.state;
  if (length % 512 !== 0) throw new BlockError("EINVAL", "The new size must be a multiple of 512");
  if (header.snapshotCount > 0 && header.version < 3)
    throw new BlockError("ENOTSUP", "Can't resize a v2 image which has snapshots");
  if (header.size === length) return;
  // A request in flight is over: what it gave up can be used.
  yield* parts.writeBack.flush();
  if (length > header.size) yield* grow(parts, length, preallocationOf(parts.state, preallocation));
  else yield* shrink(parts, length);
}

/** A raw data file shows what it holds: no cluster may be missing. */
function preallocationOf({ isDataFileRaw }: ImageState, wanted: Preallocation): Preallocation {
  return isDataFileRaw && wanted === "off" ? "metadata" : wanted;
}

function* grow(parts: ResizeParts, length: number, preallocation: Preallocation): Co<void> {
  const { state, map, writeBack } = parts;
  const { size } = state.header;
  yield* growL1(parts, length);
  // Only in memory so far: what is done for the added part has to be beyond the length that the file tells.
  state.header = { ...state.header, size: length };
  try {
    yield* zeroAdded(parts, size, length);
    if (preallocation !== "off") {
      const from = alignDown(size, state.clusterSize);
      yield* preallocateClusters(state, map, { from, to: alignUp(length, state.clusterSize) }, preallocation);
    }
    if (state.hasDataFile && state.dataFile.length < length) yield* state.dataFile.truncate(length);
    yield* writeBack.flush();
    yield* writeSize(state, length);
  } catch (error) {
    state.header = { ...state.header, size };
    throw error;
  }
}

/** The rest of the last cluster may hold what a longer disk had there; a longer backing file must not show through. */
function* zeroAdded({ state, map, writeZeroes }: ResizeParts, from: number, to: number): Co<void> {
  const { clusterSize, children } = state;
  const tail = Math.min(alignUp(from, clusterSize), to);
  if (tail > from && (yield* map.lookup(from, tail - from)).kind !== "unallocated")
    yield* writeZeroes(from, tail - from);
  const shown = Math.min(children.backing?.length ?? 0, to);
  if (shown > from) yield* writeZeroes(from, shown - from);
}

/** Moves the L1 table to where a longer one has room, unless it reaches to `length` already. Nothing else is in flight. */
export function* growL1({ state, writeBack }: Pick<ResizeParts, "state" | "writeBack">, length: number): Co<void> {
  const { clusterSize, entriesPerTable, allocator, file, metadata } = state;
  const needed = Math.ceil(length / (clusterSize * entriesPerTable));
  const { l1Entries, l1Offset } = state.header;
  if (needed <= l1Entries) return;
  if (needed * 8 > L1_BYTES_MAX) throw new BlockError("EFBIG", "Failed to grow the L1 table: File too large");
  yield* file.tell("l1_grow_alloc_table");
  const run = yield* allocator.allocate(Math.ceil((needed * 8) / clusterSize));
  const bytes = new Uint8Array(run.count * clusterSize);
  bytes.set(new Uint8Array(state.l1.buffer, state.l1.byteOffset, state.l1.byteLength));
  const offset = run.index * clusterSize;
  try {
    yield* file.tell("l1_grow_write_table");
    yield* file.write(offset, IoVector.of(bytes));
    // Its clusters are counted, and it is there, before the header points at it.
    yield* writeBack.flush();
  } catch (error) {
    yield* allocator.decrement(run);
    throw error;
  }
  const pointer = new ByteView(new Uint8Array(12));
  pointer.setU32be(0, needed);
  pointer.setU64be(4, offset);
  yield* file.tell("l1_grow_activate_table");
  yield* file.write(HEADER_L1, IoVector.of(pointer.bytes));
  yield* file.flush();
  state.header = { ...state.header, l1Entries: needed, l1Offset: offset };
  state.l1 = new DataView(bytes.buffer, 0, needed * 8);
  for (let at = run.index; at < run.index + run.count; at++) metadata.add(at);
  if (l1Entries === 0) return;
  const old = { index: l1Offset / clusterSize, count: Math.ceil((l1Entries * 8) / clusterSize) };
  for (let at = old.index; at < old.index + old.count; at++) metadata.delete(at);
  yield* allocator.decrement(old);
}

function* shrink({ state, map, writeBack }: ResizeParts, length: number): Co<void> {
  const { clusterSize } = state;
  const from = alignUp(length, clusterSize);
  const to = alignUp(state.header.size, clusterSize);
  if (to > from) yield* map.forget(from, to - from);
  dropTables(state, length);
  // Old data must not come back when the disk gets longer again: it is gone before the new length is told.
  yield* writeBack.flush();
  yield* writeSize(state, length);
  state.header = { ...state.header, size: length };
  if (state.hasDataFile && state.dataFile.length > length) yield* state.dataFile.truncate(length);
  yield* cutFile(state, writeBack);
}

/** Gives up all content of the disk. */
export function* emptyImage({ state, map, writeBack }: Omit<ResizeParts, "writeZeroes">): Co<void> {
  yield* writeBack.flush();
  yield* map.forget(0, alignUp(state.header.size, state.clusterSize));
  dropTables(state, 0);
  yield* writeBack.flush();
  yield* cutFile(state, writeBack);
}

/** Counts down what was given up, and gives the end of the file back that nothing uses any more. */
function* cutFile({ allocator, clusterSize, file }: ImageState, writeBack: WriteBack): Co<void> {
  yield* writeBack.reclaimAll();
  yield* writeBack.flush();
  const end = (yield* allocator.endOfUse()) * clusterSize;
  if (end < file.length) yield* file.truncate(end);
}

/** Takes the L2 tables out that map nothing of a disk of this length. */
function dropTables(state: ImageState, length: number): void {
  const { clusterSize, entriesPerTable, l2, l1, metadata, header } = state;
  for (let index = Math.ceil(length / (clusterSize * entriesPerTable)); index < header.l1Entries; index++) {
    const { hostOffset } = readL1Entry(l1, index, clusterSize);
    if (hostOffset === 0) continue;
    const table = l2.get(index);
    if (table !== undefined) l2.remove(table);
    metadata.delete(hostOffset / clusterSize);
    writeL1Entry(l1, index, { hostOffset: 0, copied: false });
    state.dirtyL1.add(Math.floor((index * 8) / 512));
    state.free(hostOffset / clusterSize, 1);
  }
}

function* writeSize({ file }: ImageState, size: number): Co<void> {
  const bytes = new ByteView(new Uint8Array(8));
  bytes.setU64be(0, size);
  yield* file.write(HEADER_SIZE, IoVector.of(bytes.bytes));
  yield* file.flush();
}
