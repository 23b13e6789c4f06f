/**
 * The clusters that an L1 table leads to, counted when a snapshot comes to share them and when it goes; and the flags in the
 * active tables that say what may be written in place (qcow2 specification, "Cluster mapping": bit 63).
 */
import { alignDown, BlockError, type Co } from "@spindle/base";
import { NO_CLUSTER } from "./entry-layout.ts";
import type { ImageState } from "./image-state.ts";
import { readL1Entry, writeL1Entry } from "./l2-entry.ts";
import { L2Tables } from "./l2-tables.ts";
import { readPadded } from "./padded-read.ts";
import { corrupt } from "./refcount.ts";
import type { WriteBack } from "./write-back.ts";

/** Changed L2 tables are written when they are this many. */
const DIRTY_TABLES_MAX = 64;

/**
 * Counts one more user of every cluster of a tree whose tables are in the file as they are in memory.
 * @throws {BlockError} EINVAL when a count can grow no more; nothing is counted then.
 */
export function* countTree(state: ImageState, l1: DataView): Co<void> {
  let counted = 0;
  try {
    yield* visitTree(state, l1, function* (index) {
      if (!(yield* state.allocator.increment(index)))
        throw new BlockError("EINVAL", `cluster ${index} cannot have one more user`);
      counted += 1;
    });
  } catch (error) {
    yield* visitTree(state, l1, function* (index) {
      if (counted > 0) yield* state.allocator.decrement({ index, count: 1 });
      counted -= 1;
    });
    throw error;
  }
}

/** Counts one user less of every cluster of a tree. What nobody uses any more is free at once. */
export function* discountTree(state: ImageState, l1: DataView): Co<void> {
  yield* visitTree(state, l1, (index) => state.allocator.decrement({ index, count: 1 }));
}

/** Calls back for every cluster that a tree refers to, once for each reference, the L2 tables behind what they lead to. */
function* visitTree(state: ImageState, l1: DataView, visit: (index: number) => Co<void>): Co<void> {
  const { clusterSize, file, entriesPerTable } = state;
  const bytes = new Uint8Array(clusterSize);
  const table = new DataView(bytes.buffer);
  for (let l1Index = 0; l1Index < l1.byteLength / 8; l1Index++) {
    const { hostOffset } = readL1Entry(l1, l1Index, clusterSize);
    if (hostOffset === 0) continue;
    if (hostOffset >= file.length) throw corrupt(`L2 table ${l1Index} stands beyond the end of the image file`);
    yield* readPadded(file, hostOffset, bytes);
    for (let index = 0; index < entriesPerTable; index++) yield* visitEntry(state, table, index, visit);
    yield* visit(hostOffset / clusterSize);
  }
}

function* visitEntry(
  { clusterSize, entries }: ImageState,
  table: DataView,
  index: number,
  visit: (index: number) => Co<void>,
): Co<void> {
  const { compressed, hostOffset } = entries.read(table, index);
  if (!compressed) {
    if (hostOffset !== NO_CLUSTER) yield* visit(hostOffset / clusterSize);
    return;
  }
  const place = entries.readCompressed(table, index);
  const end = place.hostOffset + place.length;
  for (let at = alignDown(place.hostOffset, clusterSize); at < end; at += clusterSize) yield* visit(at / clusterSize);
}

/** Lets every entry of the active tables say whether its cluster has one user. */
export function* refreshCopied(state: ImageState, writeBack: WriteBack): Co<void> {
  const { clusterSize, l1, l2 } = state;
  const tables = new L2Tables(state);
  for (let l1Index = 0; l1Index < state.header.l1Entries; l1Index++) {
    const { hostOffset, copied } = readL1Entry(l1, l1Index, clusterSize);
    if (hostOffset === 0) continue;
    const isOwn = yield* hasOneUser(state, hostOffset);
    if (isOwn !== copied) {
      writeL1Entry(l1, l1Index, { hostOffset, copied: isOwn });
      state.dirtyL1.add(Math.floor((l1Index * 8) / 512));
    }
    const table = yield* tables.load(l1Index);
    if (table !== undefined && (yield* refreshTable(state, table.view, isOwn))) l2.markDirty(table);
    if (l2.dirtyCount > DIRTY_TABLES_MAX) yield* writeBack.writeBack();
  }
}

/** @returns whether an entry has changed */
function* refreshTable(state: ImageState, view: DataView, isOwn: boolean): Co<boolean> {
  let changed = false;
  for (let index = 0; index < state.entriesPerTable; index++) {
    const entry = state.entries.read(view, index);
    if (entry.hostOffset === NO_CLUSTER) continue;
    const copied = isOwn && (yield* hasOneUser(state, entry.hostOffset));
    if (copied === entry.copied) continue;
    state.entries.write(view, index, { ...entry, copied });
    changed = true;
  }
  return changed;
}

function* hasOneUser({ refcounts, clusterSize }: ImageState, hostOffset: number): Co<boolean> {
  const index = hostOffset / clusterSize;
  const block = yield* refcounts.block(refcounts.blockIndexOf(index));
  return block !== undefined && refcounts.get(block, index) === 1;
}
