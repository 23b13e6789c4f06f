/** Counts references to ranges of an image file, for a check: what no count can hold, and what is not in the file, is told. */
import type { BlockNode } from "@spindle/block";
import type { CheckTally } from "./check-tally.ts";
import { ClusterCounts } from "./cluster-counts.ts";

export class ReferenceCounter {
  readonly counts: ClusterCounts;
  readonly #clusterSize: number;
  readonly #fileLength: number;
  readonly #most: number;
  readonly #tally: CheckTally;

  /** @param most the largest count that a refcount of this image can hold */
  constructor(file: BlockNode, clusterSize: number, most: number, tally: CheckTally) {
    this.#fileLength = file.length;
    this.counts = new ClusterCounts(Math.ceil(this.#fileLength / clusterSize));
    this.#clusterSize = clusterSize;
    this.#most = most;
    this.#tally = tally;
  }

  /**
   * Counts `weight` references to every cluster of a range. The file may end inside of its last cluster.
   * @param exact the offset, where a number cannot hold it
   */
  refer(offset: number, length: number, weight = 1, exact?: bigint): void {
    if (length <= 0) return;
    const clusterSize = this.#clusterSize;
    if (offset + length - this.#fileLength >= clusterSize) {
      const place = (exact ?? BigInt(offset)).toString(16);
      this.#corruption(
        "ERROR: counting reference for region exceeding the end of the file by one cluster or more: " +
          `offset 0x${place} size 0x${length.toString(16)}`,
        weight,
      );
      return;
    }
    const last = Math.floor((offset + length - 1) / clusterSize);
    this.counts.grow(last + 1);
    for (let index = Math.floor(offset / clusterSize); index <= last; index++) this.referCluster(index, weight);
  }

  /** Whether so many more references to a range of the file are too many for one of its clusters. */
  wouldOverflow(offset: number, length: number, weight: number): boolean {
    const last = Math.floor((offset + length - 1) / this.#clusterSize);
    for (let index = Math.floor(offset / this.#clusterSize); index <= last; index++)
      if (this.counts.get(index) + weight > this.#most) return true;
    return false;
  }

  /** Counts references to one cluster, which is in the file. */
  referCluster(index: number, weight: number): void {
    if (this.counts.add(index, weight, this.#most)) return;
    this.tellOverflow(index * this.#clusterSize, weight);
    this.#tally.say(
      "Use qemu-img amend to increase the refcount entry width or qemu-img convert to create a clean copy if the " +
        "image cannot be opened for writing",
    );
  }

  /** Tells that a cluster has more references than can be counted. */
  tellOverflow(offset: number, weight: number): void {
    this.#corruption(`ERROR: overflow cluster offset=0x${BigInt(offset).toString(16)}`, weight);
  }

  #corruption(line: string, weight: number): void {
    this.#tally.say(line);
    this.#tally.corruptions += weight;
  }
}
