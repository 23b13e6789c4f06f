/**
 * Finds clusters that are counted more often than they are referred to, as a crash leaves them, and corrects their
 * counts. It touches nothing else: a cluster that is counted too low is left for a repair.
 */
import type { Co } from "@spindle/base";
import { IoVector } from "@spindle/block";
import type { ImageState } from "./image-state.ts";
import { readCompressedEntry, readEntry, readL1Entry } from "./l2-entry.ts";
import { corrupt } from "./refcount.ts";
import type { CachedTable } from "./table-cache.ts";

/** References are counted up to this; what has so many is left alone. */
const REFERENCES_MAX = 0xff;

/** One byte for each cluster: 64 MiB for a file of 4 TiB with clusters of 64 KiB. Longer files are left to a check. */
const CLUSTERS_MAX: number = 2 ** 26;

/**
 * @returns how many clusters were given back; 0 for images whose clusters are not all referred to by the active tables
 * (snapshots, persistent bitmaps), and for files too long to be looked through
 * @throws {BlockError} EIO when the tables contradict themselves; nothing was changed.
 */
export function* reclaimLeaks(state: ImageState): Co<number> {
  const { header, refcounts, clusterSize } = state;
  if (header.snapshotCount > 0 || header.foreignExtensions) return 0;
  const blocks = [...refcounts.table.keys()].filter((index) => refcounts.table[index] !== 0);
  const fileClusters = Math.ceil(state.file.length / clusterSize);
  if (Math.max(fileClusters, blocks.length * refcounts.entriesPerBlock) > CLUSTERS_MAX) return 0;
  const references = yield* countReferences(state, fileClusters);
  let reclaimed = 0;
  for (const blockIndex of blocks) {
    const block = yield* refcounts.block(blockIndex);
    if (block !== undefined) reclaimed += yield* correctBlock(state, block, references);
  }
  return reclaimed;
}

/** Counts down what one block counts too high. */
function* correctBlock({ refcounts, allocator }: ImageState, block: CachedTable, references: Uint8Array): Co<number> {
  const first = block.index * refcounts.entriesPerBlock;
  let corrected = 0;
  for (let index = first; index < first + refcounts.entriesPerBlock; index++) {
    const count = refcounts.get(block, index);
    if (count === 0) continue;
    const referred = references[index] ?? 0;
    if (count <= referred || referred === REFERENCES_MAX) continue;
    refcounts.set(block, index, referred + 1);
    yield* allocator.decrement({ index, count: 1 });
    corrected += 1;
  }
  return corrected;
}

function* countReferences(state: ImageState, fileClusters: number): Co<Uint8Array> {
  const { header, clusterSize, file } = state;
  const references = new Uint8Array(fileClusters);
  const add = (first: number, last: number): void => {
    if (last >= fileClusters) throw corrupt(`cluster ${last} stands beyond the end of the image file`);
    for (let index = first; index <= last; index++)
      if (references[index] !== REFERENCES_MAX) references[index] = (references[index] as number) + 1;
  };
  for (const index of state.metadata.indices) add(index, index);
  const bytes = new Uint8Array(clusterSize);
  const table = new DataView(bytes.buffer);
  for (let l1Index = 0; l1Index < header.l1Entries; l1Index++) {
    const { hostOffset } = readL1Entry(state.l1, l1Index, clusterSize);
    if (hostOffset === 0) continue;
    bytes.fill(0);
    const present = Math.min(clusterSize, file.length - hostOffset);
    yield* file.read(hostOffset, IoVector.of(bytes.subarray(0, present)));
    for (let index = 0; index < state.entriesPerTable; index++) {
      const entry = readEntry(table, index, clusterSize, header.version);
      if (entry.kind === "compressed") {
        const place = readCompressedEntry(table, index, header.clusterBits);
        const last = Math.floor((place.hostOffset + place.length - 1) / clusterSize);
        add(Math.floor(place.hostOffset / clusterSize), Math.min(last, fileClusters - 1));
      } else if (entry.hostOffset !== 0) add(entry.hostOffset / clusterSize, entry.hostOffset / clusterSize);
    }
  }
  return references;
}
