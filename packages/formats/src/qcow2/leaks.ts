/**
 * Finds clusters of an open image that are counted more often than they are referred to, as a crash leaves them, and
 * corrects their counts. It touches nothing else: a cluster that is counted too low is left for a repair.
 */
import type { Co } from "@spindle/base";
import { CheckedImage } from "./check-image.ts";
import { countReferences } from "./check-references.ts";
import { checkSnapshotTable } from "./check-snapshots.ts";
import { CheckTally } from "./check-tally.ts";
import type { ClusterCounts } from "./cluster-counts.ts";
import type { ImageState } from "./image-state.ts";
import { readHeader } from "./read-header.ts";
import { corrupt } from "./refcount.ts";
import { StoredCounts } from "./stored-counts.ts";

/** Two bytes for each cluster: 128 MiB for a file of 4 TiB with clusters of 64 KiB. Longer files are left to a check. */
const CLUSTERS_MAX: number = 2 ** 26;

/**
 * The image was flushed, and nothing is in flight.
 * @returns how many clusters were given back; 0 for images with extensions that may own clusters, and for files too long
 * to be looked through
 * @throws {BlockError} EIO when the tables contradict themselves; nothing was changed.
 */
export function* reclaimLeaks(state: ImageState): Co<number> {
  const { file } = state;
  const header = yield* readHeader(file);
  if (header.foreignExtensions) return 0;
  const image = yield* CheckedImage.open(file, header);
  // A crash also leaves counts of clusters that the file never came to have.
  const clusters = Math.max(image.fileClusters, image.blockCount * image.clustersPerBlock);
  if (clusters > CLUSTERS_MAX) return 0;
  let wrong = "";
  const tally = new CheckTally("none", (line) => {
    wrong ||= line;
  });
  const { table } = yield* checkSnapshotTable(image, tally);
  const stored = yield* StoredCounts.read(image, clusters);
  const references = yield* countReferences(image, table, stored, tally);
  references.counts.grow(clusters);
  if (tally.corruptions > 0) throw corrupt(wrong);
  let reclaimed = 0;
  for (let index = stored.counts.nextDifference(0, references.counts); index < stored.counts.length; ) {
    reclaimed += yield* correct(state, index, references.counts);
    index = stored.counts.nextDifference(index + 1, references.counts);
  }
  return reclaimed;
}

/** Counts one cluster down to the references that it has. @returns the number of clusters that were counted too high: 0 or 1 */
function* correct({ refcounts, allocator }: ImageState, index: number, references: ClusterCounts): Co<number> {
  const block = yield* refcounts.block(refcounts.blockIndexOf(index));
  const referred = references.get(index);
  if (block === undefined || refcounts.get(block, index) <= referred) return 0;
  refcounts.set(block, index, referred + 1);
  yield* allocator.decrement({ index, count: 1 });
  return 1;
}
