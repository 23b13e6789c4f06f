/**
 * Gives guest clusters their host clusters before anybody writes to them. They read as zeros: in an encrypted image zeros of
 * the file do not, so there the clusters keep their space and are marked.
 */
import { alignUp, BlockError, type Co } from "@spindle/base";
import type { Preallocation } from "@spindle/block";
import type { ImageState } from "./image-state.ts";
import type { Qcow2ClusterMap } from "./mapping.ts";

/** Clusters whose space was taken at once. */
const STEP_BYTES = 256 * 1024 * 1024;

/**
 * Allocates what has no cluster of its own from `from` to `to`, both whole clusters. Space that is added to the file is
 * taken as `preallocation` says; clusters inside of it are zeroed.
 */
export function* preallocateClusters(
  { dataFile: file, hasDataFile, entries, clusterSize, encryption, header }: ImageState,
  map: Qcow2ClusterMap,
  { from, to }: { readonly from: number; readonly to: number },
  preallocation: Exclude<Preallocation, "off">,
): Co<void> {
  if (encryption !== null && header.version < 3)
    throw new BlockError("ENOTSUP", "preallocation of an encrypted image needs compat=1.1");
  const space = preallocation === "metadata" ? "off" : preallocation;
  for (let offset = from; offset < to; ) {
    const mapping = yield* map.lookup(offset, to - offset);
    if (mapping.hostOffset !== undefined || (mapping.kind !== "unallocated" && mapping.kind !== "zero")) {
      offset = alignUp(offset + mapping.length, clusterSize);
      continue;
    }
    const allocation = yield* map.allocate(offset, Math.min(alignUp(mapping.length, clusterSize), STEP_BYTES));
    try {
      const { hostOffset, length } = allocation;
      const inside = Math.max(0, Math.min(length, file.length - hostOffset));
      // What a data file holds there already is content of the disk from now on.
      if (inside > 0 && !hasDataFile) yield* file.writeZeroes(hostOffset, inside, {});
      if (inside < length) yield* file.truncate(hostOffset + length, space);
      yield* map.attach(allocation);
      // Without its space taken, a cluster goes on saying that it is zeros; where subclusters do, it has not ceased to.
      const isMarked = mapping.kind === "zero" && space === "off" && !entries.extended;
      if (encryption !== null || isMarked) yield* map.zero(offset, length, false);
    } catch (error) {
      yield* map.release(allocation);
      throw error;
    }
    offset += allocation.length;
  }
}
