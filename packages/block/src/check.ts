/** What a format's check of an image is asked for, and what it finds. The numbers are those of `qemu-img check`. */

/** What a check may change: nothing, counts of clusters that nothing refers to, or everything that is wrong. */
export type Repair = "none" | "leaks" | "all";

export interface CheckRequest {
  readonly repair: Repair;
  /** Takes one line for each thing that is wrong or was repaired, in the words of QEMU where it has any. */
  report(line: string): void;
}

/** Clusters and errors are counted; what was fixed is no longer among `corruptions` and `leaks`. */
export interface CheckResult {
  /** What could not be looked at or repaired. */
  readonly checkErrors: number;
  readonly corruptions: number;
  readonly leaks: number;
  readonly corruptionsFixed: number;
  readonly leaksFixed: number;
  /** Clusters of the disk, and those of them that have space, do not follow their neighbour, or are compressed. */
  readonly totalClusters: number;
  readonly allocatedClusters: number;
  readonly fragmentedClusters: number;
  readonly compressedClusters: number;
  /** Bytes: the end of the last cluster of the file that is in use. */
  readonly imageEndOffset: number;
}
