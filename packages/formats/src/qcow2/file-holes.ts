/**
 * Whether an image has clusters in use that the host has given no space to, as preallocated metadata leaves them: then
 * `map` asks the file, too, what is zeros. QEMU's rule: a tenth more clusters are in use than the file has space for.
 */
import { type Co, isBlockError } from "@spindle/base";
import type { ImageState } from "./image-state.ts";
import { Refcounts } from "./refcount.ts";

/** Fewer clusters than this without space say nothing. */
const LEAST = 2;
const SHARE = 10 / 9;

/** @returns false also where the counts cannot be read: who maps an image gets by without. */
export function* hasFileHoles(state: ImageState): Co<boolean> {
  const allocated = state.file.driver.information?.()["actual-size"];
  if (allocated === undefined) return false;
  const clusters = Math.floor(allocated / state.clusterSize);
  const most = Math.max(Math.floor(clusters * SHARE), clusters + LEAST);
  try {
    return yield* hasInUse(state, most);
  } catch (error) {
    if (!isBlockError(error)) throw error;
    return false;
  }
}

/** Whether at least so many clusters of the file are in use. */
function* hasInUse({ file, header, refcounts, clusterSize }: ImageState, least: number): Co<boolean> {
  // Who only reads has none in memory.
  const counts = file.readOnly ? yield* Refcounts.open(header, () => file) : refcounts;
  const end = Math.ceil(file.length / clusterSize);
  let found = 0;
  for (let index = 0; index < end && found < least; ) {
    const blockIndex = counts.blockIndexOf(index);
    const blockEnd = Math.min(end, (blockIndex + 1) * counts.entriesPerBlock);
    const block = yield* counts.block(blockIndex);
    for (; block !== undefined && index < blockEnd && found < least; index++)
      if (counts.get(block, index) > 0) found += 1;
    if (block === undefined) index = blockEnd;
  }
  return found >= least;
}
