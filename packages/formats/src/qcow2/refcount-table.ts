/**
 * The refcount table of an open image: blocks that are new in it, and a larger table in another place when it is full. The
 * allocator, which finds the places, sees to it that one change is made at a time.
 */
import { alignUp, BlockError, ByteView, type Co } from "@spindle/base";
import { type BlockNode, IoVector } from "@spindle/block";
import type { ClusterRun } from "./allocate.ts";
import { CLUSTERS_MAX, type MetadataClusters } from "./metadata-clusters.ts";
import { corrupt, type Refcounts } from "./refcount.ts";
import { type CachedTable, makeTable } from "./table-cache.ts";

const REFCOUNT_TABLE_BYTES_MAX = 8 * 1024 * 1024;
/** Where the header holds the refcount table's offset and, behind it, its clusters. */
const HEADER_REFCOUNT_TABLE = 48;

/** Where a larger refcount table goes: blocks that count the new area, and the table behind them. */
interface GrowthPlan {
  readonly firstBlock: number;
  readonly blocks: number;
  readonly firstCluster: number;
  readonly tableClusters: number;
}

export class RefcountTable {
  readonly #refcounts: Refcounts;
  readonly #metadata: MetadataClusters;
  readonly #file: () => BlockNode;

  constructor(refcounts: Refcounts, metadata: MetadataClusters, file: () => BlockNode) {
    this.#refcounts = refcounts;
    this.#metadata = metadata;
    this.#file = file;
  }

  /** A new block of zeros in a cluster that is free. */
  makeBlock(blockIndex: number, clusterIndex: number): CachedTable {
    const refcounts = this.#refcounts;
    const { clusterSize } = refcounts;
    const block = makeTable(blockIndex, clusterIndex * clusterSize, new Uint8Array(clusterSize));
    refcounts.blocks.put(block);
    refcounts.table[blockIndex] = block.hostOffset;
    this.#metadata.add(clusterIndex);
    return block;
  }

  /**
   * Writes a larger table behind everything that has been counted so far, and behind what the missing block will count,
   * with the blocks that count it.
   * @param place the cluster in which the missing block will stand
   * @throws {BlockError} EFBIG when it can grow no more, and what writing throws; nothing has changed then.
   */
  *grow(missing: number, place: number): Co<void> {
    const refcounts = this.#refcounts;
    const plan = this.#planGrowth(Math.max(missing + 1, Math.ceil(place / refcounts.entriesPerBlock)));
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

  /**
   * Lets the header point at the table that is in use.
   * @returns the clusters of those before it, which nothing refers to any more
   */
  *activate(): Co<ClusterRun[]> {
    const refcounts = this.#refcounts;
    const { replaced, clusterSize } = refcounts;
    if (replaced.length === 0) return [];
    const file = this.#file();
    const pointer = new ByteView(new Uint8Array(12));
    pointer.setU64be(0, refcounts.tableOffset);
    pointer.setU32be(8, (refcounts.table.length * 8) / clusterSize);
    yield* file.tell("refblock_alloc_switch_table");
    yield* file.write(HEADER_REFCOUNT_TABLE, IoVector.of(pointer.bytes));
    yield* file.flush();
    refcounts.replaced = [];
    const runs = replaced.map(({ offset, clusters }) => ({ index: offset / clusterSize, count: clusters }));
    for (const { index, count } of runs) for (let at = index; at < index + count; at++) this.#metadata.delete(at);
    return runs;
  }

  /** Lets the table name a block that is in the file. */
  *list(block: CachedTable): Co<void> {
    const refcounts = this.#refcounts;
    // A larger table names it already.
    if (!refcounts.unlisted.has(block)) return;
    const file = this.#file();
    const entry = new ByteView(new Uint8Array(8));
    entry.setU64be(0, block.hostOffset);
    yield* file.tell("refblock_alloc_hookup");
    yield* file.write(refcounts.tableOffset + block.index * 8, IoVector.of(entry.bytes));
    refcounts.unlisted.delete(block);
  }

  /** As large as QEMU makes it, so that files are laid out alike. */
  #planGrowth(firstBlock: number): GrowthPlan {
    const { clusterSize, entriesPerBlock } = this.#refcounts;
    const perCluster = clusterSize / 8;
    let total = blocksToCount(firstBlock * entriesPerBlock, entriesPerBlock, perCluster);
    let tableClusters = 0;
    let blocks = 0;
    for (; ; total += 1) {
      tableClusters = Math.ceil((total + Math.ceil(total / 2)) / perCluster);
      blocks = total - firstBlock;
      if (blocks * entriesPerBlock >= blocks + tableClusters) break;
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
    const made = Array.from({ length: blocks }, (_, step) => this.makeBlock(firstBlock + step, firstCluster + step));
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

/** How many blocks count so many clusters, all blocks and a table of them; with room for a table that is half as long again. */
function blocksToCount(clusters: number, perBlock: number, perCluster: number): number {
  let blocks = 0;
  let table = 0;
  let wanted = clusters;
  for (let isGenerous = false; ; ) {
    const next = Math.ceil((wanted + table + blocks) / perBlock);
    const nextTable = Math.ceil(next / perCluster);
    if (next === blocks && nextTable === table) {
      if (isGenerous) return blocks;
      isGenerous = true;
      wanted += Math.ceil(table / 2);
    }
    blocks = next;
    table = nextTable;
  }
}

function tableBytes(table: Float64Array): Uint8Array {
  const view = new ByteView(new Uint8Array(table.length * 8));
  for (let index = 0; index < table.length; index++) view.setU64be(index * 8, table[index] as number);
  return view.bytes;
}
