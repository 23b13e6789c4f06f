/**
 * Compares what an image counts with what its tables refer to. A count that is too high is a leak, one that is too low a
 * corruption: the cluster could be given to somebody else while it is in use.
 */
import type { CheckTally } from "./check-tally.ts";
import type { ClusterCounts } from "./cluster-counts.ts";
import type { StoredCounts } from "./stored-counts.ts";

/** Which counts may be corrected. */
export interface Corrections {
  readonly tooHigh: boolean;
  readonly tooLow: boolean;
}

export const NO_CORRECTIONS: Corrections = { tooHigh: false, tooLow: false };

export interface Comparison {
  /**
   * A cluster that is in use is counted as free. Counts cannot be corrected one by one then: what they say of free
   * clusters is not to be relied on.
   */
  readonly needsRebuild: boolean;
  /** The last cluster that is counted or referred to; 0 when there is none. */
  readonly highestCluster: number;
}

/**
 * Corrects counts in memory only: the caller writes them.
 * @param stored counts of at least the clusters of which there are references
 */
export function compareCounts(
  stored: StoredCounts,
  references: ClusterCounts,
  corrections: Corrections,
  tally: CheckTally,
): Comparison {
  const { counts } = stored;
  stored.tellUnreadable(tally);
  let needsRebuild = false;
  let index = counts.nextDifference(0, references);
  while (index < references.length) {
    if (!stored.isUnreadable(index)) {
      if (counts.get(index) === 0) needsRebuild = true;
      compareCount(index, stored, references.get(index), corrections, tally);
    }
    index = counts.nextDifference(index + 1, references);
  }
  let highestCluster = Math.max(0, counts.lastCounted(), references.lastCounted());
  while (highestCluster > 0 && stored.isUnreadable(highestCluster)) highestCluster -= 1;
  return { needsRebuild, highestCluster };
}

/** Tells of one count that is wrong, and corrects it where that may be. */
function compareCount(
  index: number,
  stored: StoredCounts,
  referred: number,
  { tooHigh, tooLow }: Corrections,
  tally: CheckTally,
): void {
  const count = stored.counts.get(index);
  const isLeak = count > referred;
  const corrects = count !== 0 && (isLeak ? tooHigh : tooLow);
  const verb = corrects ? "Repairing" : isLeak ? "Leaked" : "ERROR";
  tally.say(`${verb} cluster ${index} refcount=${stored.text(index, count)} reference=${referred}`);
  if (corrects) stored.set(index, referred);
  if (isLeak) tally[corrects ? "leaksFixed" : "leaks"] += 1;
  else tally[corrects ? "corruptionsFixed" : "corruptions"] += 1;
}
