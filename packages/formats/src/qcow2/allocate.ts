/**
 * Finds free host clusters and counts them: each run in one piece, first fit behind the run before, as QEMU does; clusters
 * that are given back are looked at again. Blocks of the refcount table that are missing are made on the way, behind the
 * run; the table itself moves to a larger place when it is full, and what it took is free at once.
 */
import { assert, BlockError, type Co, CoMutex } from "@spindle/base";
import type { BlockNode } from "@spindle/block";
import { CLUSTERS_MAX, type MetadataClusters } from "./metadata-clusters.ts";
import { corrupt, type Refcounts } from "./refcount.ts";
import { RefcountTable } from "./refcount-table.ts";
import type { CachedTable } from "./table-cache.ts";

/** A run of host clusters. */
export interface ClusterRun {
  readonly index: number;
  readonly count: number;
}

export class Allocator {
  readonly #refcounts: Refcounts;
  readonly #file: () => BlockNode;
  /** Clusters that hold metadata: a free count for one of them means that the image is corrupt. */
  readonly #metadata: MetadataClusters;
  readonly #table: RefcountTable;
  readonly #mutex = new CoMutex();
  #firstFree = 0;

  constructor(refcounts: Refcounts, metadata: MetadataClusters, file: () => BlockNode) {
    this.#refcounts = refcounts;
    this.#metadata = metadata;
    this.#file = file;
    this.#table = new RefcountTable(refcounts, metadata, file);
  }

  /**
   * Takes `count` clusters that stand side by side, or the first that are free, at least `least`.
   * @param wish where a run is to begin if anything is free there, however little it is; no cluster's number for anywhere
   * @throws {BlockError} EFBIG when the file or the refcount table can grow no more, EIO when the counts contradict the
   *   tables; nothing is taken then.
   */
  *allocate(count: number, least: number = count, wish: number = Number.NaN): Co<ClusterRun> {
    yield* this.#file().tell("cluster_alloc");
    yield* this.#mutex.lock();
    try {
      const run = yield* this.#allocate(count, least, wish);
      yield* this.#file().tell("refblock_alloc");
      yield* this.#file().tell("refblock_load");
      return run;
    } finally {
      this.#mutex.unlock();
    }
  }

  /** Counts one more user of a cluster that is in use. @returns false when its count can grow no more. */
  *increment(index: number): Co<boolean> {
    const refcounts = this.#refcounts;
    const block = yield* refcounts.block(refcounts.blockIndexOf(index));
    if (block === undefined) return false;
    const count = refcounts.get(block, index);
    if (count === 0 || count >= refcounts.most) return false;
    refcounts.set(block, index, count + 1);
    return true;
  }

  /** Counts a run down by one; what reaches zero is free at once. */
  *decrement({ index, count }: ClusterRun): Co<void> {
    const refcounts = this.#refcounts;
    yield* this.#file().tell("cluster_free");
    for (let at = index; at < index + count; ) {
      const blockIndex = refcounts.blockIndexOf(at);
      const end = Math.min(index + count, (blockIndex + 1) * refcounts.entriesPerBlock);
      const block = refcounts.blocks.get(blockIndex) ?? (yield* refcounts.block(blockIndex));
      if (block !== undefined) this.#lower(block, at, end);
      at = end;
    }
  }

  #lower(block: CachedTable, from: number, end: number): void {
    const refcounts = this.#refcounts;
    for (let index = from; index < end; index++) {
      const old = refcounts.get(block, index);
      // A count that is too small already is a corruption for `check` to find; making it wrap would spread it.
      // One that no number tells exactly stays as it is, which is a leak at worst.
      if (old === 0 || old > refcounts.most) continue;
      refcounts.set(block, index, old - 1);
      if (old === 1) this.#firstFree = Math.min(this.#firstFree, index);
    }
  }

  /** All counts may have changed. */
  lookFromStart(): void {
    this.#firstFree = 0;
  }

  *#allocate(count: number, least: number, wish: number): Co<ClusterRun> {
    for (;;) {
      const wished = Number.isInteger(wish) ? yield* this.#freeFrom(wish, count) : 0;
      const run = wished > 0 ? { index: wish, count: wished } : yield* this.#findRun(count, least);
      const missing = this.#missingBlock(run);
      if (missing === undefined) return yield* this.#take(run);
      try {
        yield* this.#addBlock(missing);
      } finally {
        // The same clusters are tried first: most often they are still free.
        this.#firstFree = Math.min(this.#firstFree, run.index);
      }
    }
  }

  /** Free clusters side by side, which are not counted yet. The next search begins behind them. */
  *#findRun(most: number, least: number): Co<ClusterRun> {
    let next = this.#firstFree;
    // Clusters that are freed during the search lower this again.
    this.#firstFree = CLUSTERS_MAX;
    try {
      const { index, count } = yield* this.#searchRun(next, most, least);
      this.#checkFree({ index, count });
      next = index + count;
      return { index, count };
    } finally {
      this.#firstFree = Math.min(this.#firstFree, next);
    }
  }

  #checkFree({ index, count }: ClusterRun): void {
    for (let at = index; at < index + count; at++)
      if (this.#metadata.has(at)) throw corrupt(`cluster ${at} holds metadata and is counted as free`);
  }

  /** How many clusters are free from `index` on, `most` at most. */
  *#freeFrom(index: number, most: number): Co<number> {
    const refcounts = this.#refcounts;
    if (index + most > CLUSTERS_MAX) return 0;
    let count = 0;
    for (; count < most; count++) {
      const blockIndex = refcounts.blockIndexOf(index + count);
      const block = refcounts.blocks.get(blockIndex) ?? (yield* refcounts.block(blockIndex));
      if (block !== undefined && refcounts.get(block, index + count) !== 0) break;
    }
    this.#checkFree({ index, count });
    return count;
  }

  *#searchRun(from: number, count: number, least: number): Co<ClusterRun> {
    const refcounts = this.#refcounts;
    let first = from;
    for (let at = from; at < first + count; ) {
      if (first + count > CLUSTERS_MAX) throw new BlockError("EFBIG", "the image file can have no more clusters");
      const blockIndex = refcounts.blockIndexOf(at);
      const end = (blockIndex + 1) * refcounts.entriesPerBlock;
      const block = refcounts.blocks.get(blockIndex) ?? (yield* refcounts.block(blockIndex));
      if (block === undefined) {
        at = end;
        continue;
      }
      if (at === first) {
        first = refcounts.firstFree(block, at, end);
        at = first;
      }
      const limit = Math.min(end, first + count);
      while (at < limit && refcounts.get(block, at) === 0) at += 1;
      if (at === limit) continue;
      if (at - first >= least) return { index: first, count: at - first };
      first = at;
    }
    return { index: first, count };
  }

  /** The first block that is to count the run and is not there. */
  #missingBlock({ index, count }: ClusterRun): number | undefined {
    const { table } = this.#refcounts;
    const last = this.#refcounts.blockIndexOf(index + count - 1);
    for (let block = this.#refcounts.blockIndexOf(index); block <= last; block++)
      if ((table[block] ?? 0) === 0) return block;
    return undefined;
  }

  /** Counts a run for which there are all blocks. */
  *#take({ index, count }: ClusterRun): Co<ClusterRun> {
    const refcounts = this.#refcounts;
    let at = index;
    try {
      while (at < index + count) {
        const blockIndex = refcounts.blockIndexOf(at);
        const block = refcounts.blocks.get(blockIndex) ?? (yield* refcounts.block(blockIndex));
        assert(block !== undefined, "a run is taken when all of it can be counted");
        const end = Math.min(index + count, (blockIndex + 1) * refcounts.entriesPerBlock);
        for (; at < end; at++) refcounts.set(block, at, 1);
      }
    } catch (error) {
      yield* this.decrement({ index, count: at - index });
      this.#firstFree = Math.min(this.#firstFree, index);
      throw error;
    }
    return { index, count };
  }

  /** The number of the first cluster behind which nothing is in use. */
  *endOfUse(): Co<number> {
    const refcounts = this.#refcounts;
    const { entriesPerBlock } = refcounts;
    for (let blockIndex = refcounts.table.length - 1; blockIndex >= 0; blockIndex--) {
      const block = yield* refcounts.block(blockIndex);
      if (block === undefined) continue;
      for (let index = (blockIndex + 1) * entriesPerBlock - 1; index >= blockIndex * entriesPerBlock; index--)
        if (refcounts.get(block, index) !== 0) return index + 1;
    }
    return 0;
  }

  /**
   * Makes a missing block in the next free cluster, behind the run that is to be counted. Where what counts that cluster
   * is missing, too, that block is made there: it counts itself.
   */
  *#addBlock(missing: number): Co<void> {
    const refcounts = this.#refcounts;
    const { index } = yield* this.#findRun(1, 1);
    const counting = refcounts.blockIndexOf(index);
    if (Math.max(missing, counting) >= refcounts.table.length) {
      yield* this.#table.grow(missing, index);
      return yield* this.#switchTable();
    }
    const counts = yield* refcounts.block(counting);
    const block = this.#table.makeBlock(counts === undefined ? counting : missing, index);
    refcounts.set(counts ?? block, index, 1);
    refcounts.blocks.markDirty(block);
    refcounts.unlisted.add(block);
  }

  /** Lets the header point at the table that is in use, where that failed when the table was made. */
  switchTable(): Co<void> {
    return this.#mutex.run(() => this.#switchTable());
  }

  *#switchTable(): Co<void> {
    for (const run of yield* this.#table.activate()) yield* this.decrement(run);
  }

  /** Lets the table name a block that is in the file. Nobody else may get the table's place meanwhile. */
  listBlock(block: CachedTable): Co<void> {
    return this.#mutex.run(() => this.#table.list(block));
  }
}
