/**
 * Finds free host clusters and counts them: each run in one piece, first fit behind the run before, as QEMU does; clusters
 * that are given back are looked at again. Blocks of the refcount table that are missing are made on the way, behind the
 * run; the table itself moves to a larger place when it is full.
 */
import { alignUp, assert, BlockError, ByteView, type Co, CoMutex } from "@spindle/base";
import { type BlockNode, IoVector } from "@spindle/block";
import { CLUSTERS_MAX, type MetadataClusters } from "./metadata-clusters.ts";
import { corrupt, type Refcounts } from "./refcount.ts";
import { type CachedTable, makeTable } from "./table-cache.ts";

/** A run of host clusters. */
export interface ClusterRun {
  readonly index: number;
  readonly count: number;
}

const REFCOUNT_TABLE_BYTES_MAX = 8 * 1024 * 1024;

/** Where a larger refcount table goes: blocks that count the new area, and the table behind them. */
interface GrowthPlan {
  readonly firstBlock: number;
  readonly blocks: number;
  readonly firstCluster: number;
  readonly tableClusters: number;
}

export class Allocator {
  readonly #refcounts: Refcounts;
  readonly #file: () => BlockNode;
  /** Clusters that hold metadata: a free count for one of them means that the image is corrupt. */
  readonly #metadata: MetadataClusters;
  readonly #mutex = new CoMutex();
  #firstFree = 0;

  constructor(refcounts: Refcounts, metadata: MetadataClusters, file: () => BlockNode) {
    this.#refcounts = refcounts;
    this.#metadata = metadata;
    this.#file = file;
  }

  /**
   * Takes `count` clusters that stand side by side, or the first that are free, at least `least`.
   * @throws {BlockError} EFBIG when the file or the refcount table can grow no more, EIO when the counts contradict the
   *   tables; nothing is taken then.
   */
  *allocate(count: number, least: number = count): Co<ClusterRun> {
    yield* this.#file().tell("cluster_alloc");
    yield* this.#mutex.lock();
    try {
      const run = yield* this.#allocate(count, least);
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

  *#allocate(count: number, least: number): Co<ClusterRun> {
    for (;;) {
      const run = yield* this.#findRun(count, least);
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
      for (let at = index; at < index + count; at++)
        if (this.#metadata.has(at)) throw corrupt(`cluster ${at} holds metadata and is counted as free`);
      next = index + count;
      return { index, count };
    } finally {
      this.#firstFree = Math.min(this.#firstFree, next);
    }
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
    if (missing >= refcounts.table.length) return yield* this.#growTable(missing);
    const { index } = yield* this.#findRun(1, 1);
    const counting = refcounts.blockIndexOf(index);
    if (counting >= refcounts.table.length) return yield* this.#growTable(counting);
    const counts = yield* refcounts.block(counting);
    const block = this.#makeBlock(counts === undefined ? counting : missing, index);
    refcounts.set(counts ?? block, index, 1);
    refcounts.blocks.markDirty(block);
    refcounts.unlisted.add(block);
  }

  #makeBlock(blockIndex: number, clusterIndex: number): CachedTable {
    const refcounts = this.#refcounts;
    const { clusterSize } = refcounts;
    const block = makeTable(blockIndex, clusterIndex * clusterSize, new Uint8Array(clusterSize));
    refcounts.blocks.put(block);
    refcounts.table[blockIndex] = block.hostOffset;
    this.#metadata.add(clusterIndex);
    return block;
  }

  /**
   * Writes a larger table behind everything that has been counted so far, with the blocks that count it. It is not in
   * use before the header points at it, which is the first thing that the next write-back does; until then nothing in
   * the file depends on the new blocks.
   */
  *#growTable(blockIndex: number): Co<void> {
    const refcounts = this.#refcounts;
    const plan = this.#planGrowth(blockIndex);
    const old = { table: refcounts.table, offset: refcounts.tableOffset };
    const table = new Float64Array((plan.tableClusters * refcounts.clusterSize) / 8);
    table.set(old.table);
    refcounts.table = table;
    const made = this.#makeBlocks(plan);
    const offset = (plan.firstCluster + plan.blocks) * refcounts.clusterSize;
    try {
      const unlisted = [...refcounts.unlisted];
      yield* this.#writeTable(offset, [...unlisted, ...made]);
      for (const block of unlisted) refcounts.unlisted.delete(block);
    } catch (error) {
      refcounts.table = old.table;
      for (const block of made) refcounts.blocks.remove(block);
      for (let at = 0; at < plan.blocks + plan.tableClusters; at++) this.#metadata.delete(plan.firstCluster + at);
      throw error;
    } finally {
      for (const block of made) block.writing = false;
    }
    const clusters = (old.table.length * 8) / refcounts.clusterSize;
    refcounts.replaced = [...refcounts.replaced, { offset: old.offset, clusters }];
    refcounts.tableOffset = offset;
  }

  #planGrowth(firstBlock: number): GrowthPlan {
    const { clusterSize, entriesPerBlock } = this.#refcounts;
    let blocks = 1;
    let tableClusters = 0;
    for (;;) {
      tableClusters = Math.ceil((Math.ceil((firstBlock + blocks) * 1.5) * 8) / clusterSize);
      if (blocks * entriesPerBlock >= blocks + tableClusters) break;
      blocks += 1;
    }
    const most = alignUp(REFCOUNT_TABLE_BYTES_MAX, clusterSize) / clusterSize;
    // The last growth is smaller than half.
    tableClusters = Math.min(tableClusters, Math.max(most, 1));
    const firstCluster = firstBlock * entriesPerBlock;
    const fits = firstBlock + blocks <= (tableClusters * clusterSize) / 8;
    if (!fits || firstCluster + blocks + tableClusters > CLUSTERS_MAX)
      throw new BlockError("EFBIG", "the image's refcount table cannot grow any more");
    if (this.#metadata.touches(firstCluster, blocks + tableClusters))
      throw corrupt("metadata stands where nothing is counted");
    return { firstBlock, blocks, firstCluster, tableClusters };
  }

  /** Blocks that count themselves and the table behind them; they are written with the table, and not before. */
  #makeBlocks({ firstBlock, blocks, firstCluster, tableClusters }: GrowthPlan): CachedTable[] {
    const refcounts = this.#refcounts;
    const made = Array.from({ length: blocks }, (_, step) => this.#makeBlock(firstBlock + step, firstCluster + step));
    for (let index = firstCluster; index < firstCluster + blocks + tableClusters; index++) {
      refcounts.set(made[refcounts.blockIndexOf(index) - firstBlock] as CachedTable, index, 1);
      this.#metadata.add(index);
    }
    for (const block of made) {
      refcounts.blocks.markClean(block);
      block.writing = true;
    }
    return made;
  }

  *#writeTable(offset: number, blocks: readonly CachedTable[]): Co<void> {
    const file = this.#file();
    yield* file.tell("refblock_alloc_write_blocks");
    for (const block of blocks) yield* file.write(block.hostOffset, IoVector.of(block.bytes.slice()));
    yield* file.tell("refblock_alloc_write_table");
    yield* file.write(offset, IoVector.of(tableBytes(this.#refcounts.table)));
    yield* file.flush();
  }
}

function tableBytes(table: Float64Array): Uint8Array {
  const view = new ByteView(new Uint8Array(table.length * 8));
  for (let index = 0; index < table.length; index++) view.setU64be(index * 8, table[index] as number);
  return view.bytes;
}
