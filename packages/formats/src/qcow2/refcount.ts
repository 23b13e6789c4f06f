/**
 * Refcounts in memory: the refcount table, its blocks as they are needed, and entries of 1 to 64 bits (qcow2
 * specification, "Host cluster management"). Nothing here is written by itself: write-back.ts decides when.
 */
import { assert, BlockError, ByteView, type Co, CoMutex } from "@spindle/base";
import { type BlockNode, IoVector } from "@spindle/block";
import type { Qcow2Header } from "./header.ts";
import { readPadded } from "./padded-read.ts";
import { type CachedTable, makeTable, TableCache } from "./table-cache.ts";

/** Memory for refcount blocks that are not changed. */
const CACHE_BYTES = 8 * 1024 * 1024;

/** Where a refcount table stood, in bytes, and how many clusters it took. */
export interface ReplacedTable {
  readonly offset: number;
  readonly clusters: number;
}

export class Refcounts {
  readonly clusterSize: number;
  /** Clusters that one block counts. */
  entriesPerBlock: number;
  readonly blocks: TableCache;
  #order: number;
  readonly #file: () => BlockNode;
  readonly #loading = new CoMutex();
  /** Host offsets of the blocks; 0 where there is none. */
  table: Float64Array;
  tableOffset: number;
  /** Blocks whose entries are not in the file's table yet. */
  readonly unlisted: Set<CachedTable> = new Set();
  /** Tables that were replaced by larger ones; the header in the file still points at the first of them. */
  replaced: readonly ReplacedTable[] = [];

  constructor(header: Qcow2Header, table: Float64Array, file: () => BlockNode, cacheBytes: number = CACHE_BYTES) {
    this.clusterSize = 2 ** header.clusterBits;
    this.#order = header.refcountOrder;
    this.entriesPerBlock = (this.clusterSize * 8) / 2 ** header.refcountOrder;
    this.blocks = new TableCache(Math.max(4, cacheBytes / this.clusterSize));
    this.table = table;
    this.tableOffset = header.refcountTableOffset;
    this.#file = file;
  }

  /** The largest count that an entry can hold, as far as a number can tell. */
  get most(): number {
    return refcountMost(this.#order);
  }

  blockIndexOf(clusterIndex: number): number {
    return Math.floor(clusterIndex / this.entriesPerBlock);
  }

  /** The block that counts a cluster, or undefined when there is none yet: nothing there is in use. */
  *block(blockIndex: number): Co<CachedTable | undefined> {
    const cached = this.blocks.get(blockIndex);
    if (cached !== undefined) return cached;
    if ((this.table[blockIndex] ?? 0) === 0) return undefined;
    return yield* this.#loading.run(() => this.#load(blockIndex));
  }

  *#load(blockIndex: number): Co<CachedTable> {
    const cached = this.blocks.get(blockIndex);
    if (cached !== undefined) return cached;
    const hostOffset = this.table[blockIndex] as number;
    const file = this.#file();
    const bytes = new Uint8Array(this.clusterSize);
    yield* file.read(hostOffset, IoVector.of(bytes.subarray(0, Math.min(bytes.length, file.length - hostOffset))));
    const table = makeTable(blockIndex, hostOffset, bytes);
    this.blocks.put(table);
    return table;
  }

  get(block: CachedTable, clusterIndex: number): number {
    return readCount(block.view, clusterIndex % this.entriesPerBlock, this.#order);
  }

  /** The first cluster from `index` on, and before `end`, that nothing uses; `end` when there is none. */
  firstFree(block: CachedTable, index: number, end: number): number {
    let at = index;
    if (this.#order === 4) {
      const { view } = block;
      const base = at - (at % this.entriesPerBlock);
      while (at < end && view.getUint16((at - base) * 2) !== 0) at += 1;
      return at;
    }
    while (at < end && this.get(block, at) !== 0) at += 1;
    return at;
  }

  set(block: CachedTable, clusterIndex: number, count: number): void {
    assert(count >= 0 && count <= this.most, "a refcount fits its entry");
    this.blocks.markDirty(block);
    writeCount(block.view, clusterIndex % this.entriesPerBlock, this.#order, count);
  }

  /** The file has other counts now; none of these is changed in memory. */
  switchTo(order: number, table: Float64Array, tableOffset: number): void {
    this.#order = order;
    this.entriesPerBlock = (this.clusterSize * 8) / 2 ** order;
    this.table = table;
    this.tableOffset = tableOffset;
    this.blocks.clear();
  }

  /** For images that are only read: nothing is counted. */
  static none(header: Qcow2Header, file: () => BlockNode): Refcounts {
    return new Refcounts(header, new Float64Array(0), file);
  }

  /** Reads the table of an image that is being opened for writing. */
  static *open(header: Qcow2Header, file: () => BlockNode, cacheBytes?: number): Co<Refcounts> {
    const bytes = new Uint8Array(header.refcountTableClusters * 2 ** header.clusterBits);
    if (header.refcountTableOffset + bytes.length - file().length >= 2 ** header.clusterBits)
      throw new BlockError("EINVAL", "the refcount table stands beyond the end of the image file");
    yield* file().tell("reftable_load");
    yield* readPadded(file(), header.refcountTableOffset, bytes);
    const view = new ByteView(bytes);
    const table = new Float64Array(bytes.length / 8);
    // The low nine bits are reserved.
    for (let index = 0; index < table.length; index++)
      table[index] = Math.floor(view.u64be(index * 8, "refcount table entry") / 512) * 512;
    return new Refcounts(header, table, file, cacheBytes);
  }
}

/** The largest count that an entry of 2^order bits can hold, as far as a number can tell. */
export function refcountMost(order: number): number {
  return order >= 6 ? Number.MAX_SAFE_INTEGER : 2 ** (2 ** order) - 1;
}

/** An entry of a refcount block whose entries have 2^order bits. */
export function readCount(block: DataView, entry: number, order: number): number {
  switch (order) {
    case 3:
      return block.getUint8(entry);
    case 4:
      return block.getUint16(entry * 2);
    case 5:
      return block.getUint32(entry * 4);
    case 6:
      return Number(block.getBigUint64(entry * 8));
    default: {
      const bits = 2 ** order;
      const perByte = 8 / bits;
      return (block.getUint8(Math.floor(entry / perByte)) >> ((entry % perByte) * bits)) & (2 ** bits - 1);
    }
  }
}

export function writeCount(block: DataView, entry: number, order: number, count: number): void {
  switch (order) {
    case 3:
      block.setUint8(entry, count);
      break;
    case 4:
      block.setUint16(entry * 2, count);
      break;
    case 5:
      block.setUint32(entry * 4, count);
      break;
    case 6:
      block.setBigUint64(entry * 8, BigInt(count));
      break;
    default: {
      const bits = 2 ** order;
      const perByte = 8 / bits;
      const at = Math.floor(entry / perByte);
      const shift = (entry % perByte) * bits;
      const mask = (2 ** bits - 1) << shift;
      block.setUint8(at, (block.getUint8(at) & ~mask) | (count << shift));
    }
  }
}

export function corrupt(message: string): BlockError {
  return new BlockError("EIO", `qcow2 image is corrupt: ${message}`, { corrupt: true });
}
