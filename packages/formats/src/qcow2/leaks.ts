/**
 * Finds clusters that are counted more often than they are referred to, as a crash leaves them, and corrects their
 * counts. It touches nothing else: a cluster that is counted too low is left for a repair.
 */
import type { Co } from "@spindle/base";
import { IoVector } from "@spindle/block";
import type { ImageState } from "./image-state.ts";
import { readCompressedEntry, readEntry, readL1Entry } from "./l2-entry.ts";
import { corrupt } from "./refcount.ts";

/** References are counted up to this; no image without snapshots has more. */
const MOST = 0xffff;

/**
 * @returns how many clusters were given back; 0 for images with snapshots, whose tables are not looked at
 * @throws {BlockError} EIO when the tables contradict themselves; nothing was changed.
 */
export function* reclaimLeaks(state: ImageState): Co<number> {
  if (state.header.snapshotCount > 0) return 0;
  const references = yield* countReferences(state);
  const { refcounts } = state;
  let reclaimed = 0;
  for (let blockIndex = 0; blockIndex < refcounts.table.length; blockIndex++) {
    const block = yield* refcounts.block(blockIndex);
    if (block === undefined) continue;
    const first = blockIndex * refcounts.entriesPerBlock;
    for (let index = first; index < first + refcounts.entriesPerBlock; index++) {
      const excess = refcounts.get(block, index) - (references[index] ?? 0);
      if (excess <= 0) continue;
      for (let step = 0; step < excess; step++) yield* state.allocator.decrement({ index, count: 1 });
      reclaimed += 1;
    }
  }
  return reclaimed;
}

function* countReferences(state: ImageState): Co<Uint16Array> {
  const { header, clusterSize, metadata, file } = state;
  const references = new Uint16Array(Math.ceil(file.length / clusterSize));
  const add = (index: number, count = 1): void => {
    for (let at = index; at < index + count; at++)
      if (at < references.length) references[at] = Math.min(MOST, (references[at] as number) + 1);
  };
  for (const index of metadata) add(index);
  const bytes = new Uint8Array(clusterSize);
  const table = new DataView(bytes.buffer);
  for (let l1Index = 0; l1Index < header.l1Entries; l1Index++) {
    const { hostOffset } = readL1Entry(state.l1, l1Index, clusterSize);
    if (hostOffset === 0) continue;
    if (hostOffset + clusterSize > file.length)
      throw corrupt(`L2 table ${l1Index} stands beyond the end of the image file`);
    yield* file.read(hostOffset, IoVector.of(bytes));
    for (let index = 0; index < state.entriesPerTable; index++) {
      const entry = readEntry(table, index, clusterSize, header.version);
      if (entry.kind === "compressed") {
        const place = readCompressedEntry(table, index, header.clusterBits);
        const first = Math.floor(place.hostOffset / clusterSize);
        add(first, Math.floor((place.hostOffset + place.length - 1) / clusterSize) - first + 1);
      } else if (entry.hostOffset !== 0) add(entry.hostOffset / clusterSize);
    }
  }
  return references;
}
