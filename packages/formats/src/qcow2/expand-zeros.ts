/**
 * Takes zero clusters out of an image, which version 2 does not have. Without a backing file they become clusters that are
 * not there; above one they are stored. Those of the active state change as a write would change them; those of snapshots
 * in their L2 tables as these stand in the file, once what the new entries point at is durable and counted.
 */
import type { Co } from "@spindle/base";
import { IoVector } from "@spindle/block";
import { NO_CLUSTER, UNALLOCATED } from "./entry-layout.ts";
import type { ImageState } from "./image-state.ts";
import { readL1Entry } from "./l2-entry.ts";
import type { Qcow2ClusterMap } from "./mapping.ts";
import { readPadded } from "./padded-read.ts";
import { corrupt } from "./refcount.ts";
import type { WriteBack } from "./write-back.ts";

export interface ExpandParts {
  readonly state: ImageState;
  readonly map: Qcow2ClusterMap;
  readonly writeBack: WriteBack;
}

/** @param tell hears how many of all L1 entries have been looked at */
export function* expandZeros(
  parts: ExpandParts,
  snapshotTables: readonly DataView[],
  tell: (done: number, total: number) => void,
): Co<void> {
  const { state, writeBack } = parts;
  const total = snapshotTables.reduce((sum, l1) => sum + l1.byteLength / 8, state.header.l1Entries);
  let done = 0;
  for (let l1Index = 0; l1Index < state.header.l1Entries; l1Index++) {
    yield* expandActive(parts, l1Index);
    tell(++done, total);
  }
  yield* writeBack.flush();
  yield* writeBack.reclaimAll();
  const expanded = new Set<number>();
  for (const l1 of snapshotTables)
    for (let l1Index = 0; l1Index < l1.byteLength / 8; l1Index++) {
      const { hostOffset } = readL1Entry(l1, l1Index, state.clusterSize);
      if (hostOffset !== 0 && !expanded.has(hostOffset)) yield* expandInactive(parts, hostOffset, l1Index);
      expanded.add(hostOffset);
      tell(++done, total);
    }
  yield* writeBack.settle();
}

/** What one entry of the active L1 table leads to, also beyond the end of the disk. */
function* expandActive({ state, map, writeBack }: ExpandParts, l1Index: number): Co<void> {
  const { clusterSize, entriesPerTable, children } = state;
  if (readL1Entry(state.l1, l1Index, clusterSize).hostOffset === 0) return;
  const end = (l1Index + 1) * entriesPerTable * clusterSize;
  for (let offset = l1Index * entriesPerTable * clusterSize; offset < end; ) {
    const { kind, length, hostOffset } = yield* map.lookup(offset, end - offset);
    if (kind === "zero") {
      if (hostOffset !== undefined) yield* expandKept(state, map, { guestOffset: offset, length, hostOffset });
      else if (children.backing === null) yield* map.forget(offset, length);
      else yield* storeZeros(state, map, offset, length);
    }
    offset += length;
  }
  if (writeBack.hasReclaimable) yield* writeBack.reclaim();
}

/** Zeros that keep their space get it where it is theirs alone. */
function* expandKept(
  state: ImageState,
  map: Qcow2ClusterMap,
  run: { readonly guestOffset: number; readonly length: number; readonly hostOffset: number },
): Co<void> {
  const { clusterSize } = state;
  for (let done = 0; done < run.length; ) {
    const isOurs = (yield* usersOf(state, run.hostOffset + done)) === 1;
    let end = done + clusterSize;
    while (end < run.length && ((yield* usersOf(state, run.hostOffset + end)) === 1) === isOurs) end += clusterSize;
    const place = { guestOffset: run.guestOffset + done, length: end - done, hostOffset: run.hostOffset + done };
    const part = { ...place, reserved: false };
    if (isOurs) {
      yield* state.writeZeros(part, part.length);
      yield* map.publish(part);
    } else yield* storeZeros(state, map, part.guestOffset, part.length);
    done = end;
  }
}

/** Gives whole clusters clusters of zeros. */
function* storeZeros(state: ImageState, map: Qcow2ClusterMap, guestOffset: number, length: number): Co<void> {
  for (let done = 0; done < length; ) {
    const allocation = yield* map.allocate(guestOffset + done, length - done);
    try {
      yield* state.writeZeros(allocation, allocation.length);
      yield* map.publish(allocation);
    } catch (error) {
      yield* map.release(allocation);
      throw error;
    }
    done += allocation.length;
  }
}

/** An L2 table of snapshots, in its place: all who refer to it refer to what it leads to. */
function* expandInactive({ state, writeBack }: ExpandParts, l2Offset: number, l1Index: number): Co<void> {
  const { clusterSize, entries, entriesPerTable, children, file, allocator } = state;
  if (l2Offset >= file.length) throw corrupt("an L2 table of a snapshot stands beyond the end of the image file");
  const bytes = new Uint8Array(clusterSize);
  yield* readPadded(file, l2Offset, bytes);
  const table = new DataView(bytes.buffer);
  const users = yield* usersOf(state, l2Offset);
  const freed: number[] = [];
  let changed = false;
  for (let index = 0; index < entriesPerTable; index++) {
    const { zero, hostOffset } = entries.read(table, index);
    if (zero === 0) continue;
    const stored = children.backing !== null;
    const place = stored
      ? {
          hostOffset: yield* zeroCluster(state, users, (l1Index * entriesPerTable + index) * clusterSize),
          allocated: entries.all,
        }
      : {};
    entries.write(table, index, { ...UNALLOCATED, ...place });
    if (hostOffset !== NO_CLUSTER) freed.push(hostOffset);
    changed = true;
  }
  if (!changed) return;
  yield* writeBack.settle();
  yield* file.write(l2Offset, IoVector.of(bytes));
  yield* file.flush();
  for (const hostOffset of freed)
    for (let user = 0; user < users; user++) yield* allocator.decrement({ index: hostOffset / clusterSize, count: 1 });
}

/** A new cluster of zeros that so many refer to, all at the same place of their disks. @returns its offset */
function* zeroCluster(state: ImageState, users: number, guestOffset: number): Co<number> {
  const { allocator, clusterSize } = state;
  const { index } = yield* allocator.allocate(1);
  for (let user = 1; user < users; user++) yield* allocator.increment(index);
  const hostOffset = index * clusterSize;
  yield* state.writeZeros({ guestOffset, hostOffset }, clusterSize);
  return hostOffset;
}

function* usersOf({ refcounts, clusterSize }: ImageState, hostOffset: number): Co<number> {
  const index = hostOffset / clusterSize;
  const block = yield* refcounts.block(refcounts.blockIndexOf(index));
  return block === undefined ? 0 : refcounts.get(block, index);
}
