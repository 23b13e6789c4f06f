/**
 * Finds free host clusters, first fit from the lowest that may be free, as QEMU does, and counts them. Blocks of the
 * refcount table that are missing are made on the way; the table itself grows when it is full.
 */
import { alignUp, assert, BlockError, ByteView, type Co, CoMutex } from "@spindle/base";
import { type BlockNode, IoVector } from "@spindle/block";
import { corrupt, type Refcounts } from "./refcount.ts";
import { type CachedTable, makeTable } from "./table-cache.ts";

/** A run of host clusters. */
export interface ClusterRun {
  readonly index: number;
  readonly count: number;
}

const REFCOUNT_TABLE_BYTES_MAX = 8 * 1024 * 1024;
/** Where the header holds the refcount table's offset and, behind it, its clusters. */
const HEADER_REFCOUNT_TABLE = 48;

export class Allocator {
  readonly #refcounts: Refcounts;
  readonly #file: () => BlockNode;
  /** Clusters that hold metadata: a free count for one of them means that the image is corrupt. */
  readonly #metadata: Set<number>;
  readonly #mutex = new CoMutex();
  #firstFree = 0;

  constructor(refcounts: Refcounts, metadata: Set<number>, file: () => BlockNode) {
    this.#refcounts = refcounts;
    this.#metadata = metadata;
    this.#file = file;
  }

  /**
   * Takes up to `count` clusters that stand side by side, at least one.
   * @throws {BlockError} EFBIG when the refcount table can grow no more, EIO when the counts contradict the tables.
   */
  allocate(count: number): Co<ClusterRun> {
    return this.#mutex.run(() => this.#allocate(count));
  }

  /** Counts one more user of a cluster that is in use. */
  *increment(index: number): Co<void> {
    const block = yield* this.#refcounts.block(this.#refcounts.blockIndexOf(index));
    assert(block !== undefined, "a cluster in use is counted");
    this.#refcounts.set(block, index, this.#refcounts.get(block, index) + 1);
  }

  /** Counts a run down by one; what reaches zero is free at once. */
  *decrement(run: ClusterRun): Co<void> {
    for (let index = run.index; index < run.index + run.count; index++) {
      const block = yield* this.#refcounts.block(this.#refcounts.blockIndexOf(index));
      const old = block === undefined ? 0 : this.#refcounts.get(block, index);
      // A count that is too small already is a corruption for `check` to find; making it wrap would spread it.
      if (block === undefined || old === 0) continue;
      this.#refcounts.set(block, index, old - 1);
      if (old === 1) this.#firstFree = Math.min(this.#firstFree, index);
    }
  }

  *#allocate(count: number): Co<ClusterRun> {
    const refcounts = this.#refcounts;
    for (let index = this.#firstFree; ; ) {
      const blockIndex = refcounts.blockIndexOf(index);
      const end = (blockIndex + 1) * refcounts.entriesPerBlock;
      const block = (yield* refcounts.block(blockIndex)) ?? (yield* this.#addBlock(blockIndex, index));
      let first = index;
      while (first < end && refcounts.get(block, first) !== 0) first += 1;
      this.#firstFree = first;
      if (first < end) return this.#take(block, first, Math.min(end, first + count));
      index = end;
    }
  }

  #take(block: CachedTable, first: number, limit: number): ClusterRun {
    let index = first;
    for (; index < limit && this.#refcounts.get(block, index) === 0; index++) {
      if (this.#metadata.has(index)) throw corrupt(`cluster ${index} holds metadata and is counted as free`);
      this.#refcounts.set(block, index, 1);
    }
    this.#firstFree = index;
    return { index: first, count: index - first };
  }

  /** Makes the missing block that counts `from`, in the first cluster from there on: the whole area is free. */
  *#addBlock(blockIndex: number, from: number): Co<CachedTable> {
    const refcounts = this.#refcounts;
    if (blockIndex >= refcounts.table.length) return yield* this.#growTable(blockIndex);
    if (this.#metadata.has(from)) throw corrupt(`cluster ${from} holds metadata and is not counted`);
    return this.#makeBlock(blockIndex, from);
  }

  #makeBlock(blockIndex: number, clusterIndex: number): CachedTable {
    const refcounts = this.#refcounts;
    const { clusterSize } = refcounts;
    const block = makeTable(blockIndex, clusterIndex * clusterSize, new Uint8Array(clusterSize));
    block.fresh = true;
    refcounts.blocks.put(block);
    refcounts.table[blockIndex] = block.hostOffset;
    refcounts.unlisted.add(block);
    this.#metadata.add(clusterIndex);
    if (refcounts.blockIndexOf(clusterIndex) === blockIndex) refcounts.set(block, clusterIndex, 1);
    else refcounts.blocks.markDirty(block);
    return block;
  }

  /**
   * Moves the table to a larger place: blocks that count the new area, then the table, all in clusters that no block has
   * counted so far. The header points at the new table once all that is durable; the old one is given up afterwards.
   */
  *#growTable(blockIndex: number): Co<CachedTable> {
    const refcounts = this.#refcounts;
    const { clusterSize, entriesPerBlock } = refcounts;
    let blocks = 1;
    let clusters = 0;
    for (;;) {
      clusters = Math.ceil((Math.ceil((blockIndex + blocks) * 1.5) * 8) / clusterSize);
      if (blocks * entriesPerBlock >= blocks + clusters) break;
      blocks += 1;
    }
    if (clusters * clusterSize > alignUp(REFCOUNT_TABLE_BYTES_MAX, clusterSize))
      throw new BlockError("EFBIG", "the image's refcount table cannot grow any more");
    const first = blockIndex * entriesPerBlock;
    const old = { table: refcounts.table, offset: refcounts.tableOffset };
    const table = new Float64Array((clusters * clusterSize) / 8);
    table.set(old.table);
    refcounts.table = table;
    try {
      const made = Array.from({ length: blocks }, (_, index) => this.#makeBlock(blockIndex + index, first + index));
      for (let index = first; index < first + blocks + clusters; index++) {
        const block = made[refcounts.blockIndexOf(index) - blockIndex] as CachedTable;
        refcounts.set(block, index, 1);
        this.#metadata.add(index);
      }
      yield* this.#writeTable((first + blocks) * clusterSize, clusters);
    } catch (error) {
      this.#forget(blockIndex, blocks, clusters, old.table);
      throw error;
    }
    yield* this.#giveUpTable(old.offset, (old.table.length * 8) / clusterSize);
    return refcounts.blocks.get(blockIndex) as CachedTable;
  }

  *#writeTable(offset: number, clusters: number): Co<void> {
    const refcounts = this.#refcounts;
    const file = this.#file();
    const unlisted = [...refcounts.unlisted];
    for (const block of unlisted) yield* file.write(block.hostOffset, IoVector.of(block.bytes.slice()));
    yield* file.write(offset, IoVector.of(tableBytes(refcounts.table)));
    yield* file.flush();
    const pointer = new ByteView(new Uint8Array(12));
    pointer.setU64be(0, offset);
    pointer.setU32be(8, clusters);
    yield* file.write(HEADER_REFCOUNT_TABLE, IoVector.of(pointer.bytes));
    yield* file.flush();
    for (const block of unlisted) refcounts.unlisted.delete(block);
    refcounts.tableOffset = offset;
  }

  *#giveUpTable(offset: number, clusters: number): Co<void> {
    const index = offset / this.#refcounts.clusterSize;
    for (let at = index; at < index + clusters; at++) this.#metadata.delete(at);
    yield* this.decrement({ index, count: clusters });
  }

  #forget(blockIndex: number, blocks: number, clusters: number, table: Float64Array): void {
    const refcounts = this.#refcounts;
    refcounts.table = table;
    for (let index = blockIndex; index < blockIndex + blocks; index++) {
      const block = refcounts.blocks.get(index);
      if (block === undefined) continue;
      refcounts.blocks.remove(block);
      refcounts.unlisted.delete(block);
    }
    const first = blockIndex * refcounts.entriesPerBlock;
    for (let index = first; index < first + blocks + clusters; index++) this.#metadata.delete(index);
  }
}

function tableBytes(table: Float64Array): Uint8Array {
  const view = new ByteView(new Uint8Array(table.length * 8));
  for (let index = 0; index < table.length; index++) view.setU64be(index * 8, table[index] as number);
  return view.bytes;
}
