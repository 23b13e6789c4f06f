/**
 * Counts of another width. A new refcount table and its blocks are written behind everything that is in use, where the
 * old counts have nothing, so that nothing has to be counted there before; then one write of the header's first sector
 * says where they are and how wide. In the new counts the old table and blocks are free: a crash leaks nothing.
 */
import { BlockError, ByteView, type Co, SECTOR_SIZE } from "@spindle/base";
import { IoVector } from "@spindle/block";
import type { ImageState } from "./image-state.ts";
import { CLUSTERS_MAX } from "./metadata-clusters.ts";
import { readHeader } from "./read-header.ts";
import { refcountMost, writeCount } from "./refcount.ts";
import type { WriteBack } from "./write-back.ts";

const TABLE_BYTES_MAX = 8 * 1024 * 1024;
/** Where the header holds the table's offset and, behind it, its clusters; and the width. */
const HEADER_TABLE = 48;
const HEADER_ORDER = 96;
/** Looks at the counts that there are at least, the one that writes them included. */
const WALKS_LEAST = 3;

/** Where everything goes: blocks by their index in the table, one after the other, and the table behind them. */
interface Plan {
  readonly blocks: readonly number[];
  readonly firstCluster: number;
  readonly tableClusters: number;
}

/**
 * Nothing else is in flight.
 * @param order counts become 2^order bits wide
 * @param tell hears how much is done, 0 to 1; it may become less
 * @throws {BlockError} ENOTSUP when a count does not fit, EFBIG for a table that is too large; nothing was changed then.
 */
export function* changeRefcountWidth(
  state: ImageState,
  writeBack: WriteBack,
  order: number,
  tell: (done: number) => void,
): Co<void> {
  yield* writeBack.settle();
  yield* writeBack.reclaimAll();
  yield* writeBack.settle();
  const used = yield* usedBlocks(state, order);
  const { plan, walks } = planWidth(state, used, order, tell);
  tell((walks - 1) / walks);
  yield* writeBlocks(state, plan, order);
  yield* switchHeader(state, plan, order);
  tell(1);
}

/** The new blocks that count something which is in use, and the end of what is. */
function* usedBlocks(state: ImageState, order: number): Co<{ blocks: ReadonlySet<number>; end: number }> {
  const { refcounts, clusterSize, file } = state;
  const perBlock = (clusterSize * 8) / 2 ** order;
  const most = refcountMost(order);
  const blocks = new Set<number>();
  let end = Math.ceil(file.length / clusterSize);
  for (let blockIndex = 0; blockIndex < refcounts.table.length; blockIndex++) {
    const block = yield* refcounts.block(blockIndex);
    if (block === undefined) continue;
    const first = blockIndex * refcounts.entriesPerBlock;
    for (let index = first; index < first + refcounts.entriesPerBlock; index++) {
      const count = refcounts.get(block, index);
      if (count === 0) continue;
      if (count > most) throw tooWide(order, index * clusterSize, count);
      blocks.add(Math.floor(index / perBlock));
      end = Math.max(end, index + 1);
    }
  }
  return { blocks, end };
}

function tooWide(order: number, offset: number, count: number): BlockError {
  const message =
    `Cannot decrease refcount entry width to ${2 ** order} bits: ` +
    `Cluster at offset 0x${offset.toString(16)} has a refcount of ${count}`;
  return new BlockError("ENOTSUP", message);
}

/** The new blocks count themselves and the table: more of them may be needed for that, until nothing changes any more. */
function planWidth(
  { clusterSize }: ImageState,
  used: { readonly blocks: ReadonlySet<number>; readonly end: number },
  order: number,
  tell: (done: number) => void,
): { plan: Plan; walks: number } {
  const perBlock = (clusterSize * 8) / 2 ** order;
  let blocks: ReadonlySet<number> = used.blocks;
  for (let walk = 0; ; walk++) {
    const walks = Math.max(walk + 2, WALKS_LEAST);
    tell(walk / walks);
    const before = blocks.size;
    const tableClusters = tableClustersFor(blocks, used.end, perBlock, clusterSize);
    const behind = used.end + before + tableClusters;
    if (tableClusters * clusterSize > TABLE_BYTES_MAX || behind > CLUSTERS_MAX)
      throw new BlockError("EFBIG", "the image's refcount table would be too large");
    const next = new Set(used.blocks);
    for (let index = Math.floor(used.end / perBlock); index * perBlock < behind; index++) next.add(index);
    tell((walk + 1) / walks);
    // The first walk only tells what there is to count.
    if (walk > 0 && next.size === before) {
      const sorted = [...blocks].sort((one, other) => one - other);
      return {
        plan: { blocks: sorted, firstCluster: used.end, tableClusters },
        walks: Math.max(walk + 2, WALKS_LEAST),
      };
    }
    blocks = next;
  }
}

function tableClustersFor(blocks: ReadonlySet<number>, end: number, perBlock: number, clusterSize: number): number {
  let last = Math.floor(end / perBlock);
  for (const index of blocks) last = Math.max(last, index);
  return Math.ceil(((last + 1) * 8) / clusterSize);
}

function* writeBlocks(state: ImageState, { blocks, firstCluster, tableClusters }: Plan, order: number): Co<void> {
  const { refcounts, clusterSize, file } = state;
  const perBlock = (clusterSize * 8) / 2 ** order;
  const end = firstCluster + blocks.length + tableClusters;
  const old = oldClusters(state);
  const table = new ByteView(new Uint8Array(tableClusters * clusterSize));
  for (const [place, blockIndex] of blocks.entries()) {
    const bytes = new Uint8Array(clusterSize);
    const view = new DataView(bytes.buffer);
    for (let entry = 0; entry < perBlock; entry++) {
      const index = blockIndex * perBlock + entry;
      const block = yield* refcounts.block(refcounts.blockIndexOf(index));
      const count = block === undefined ? 0 : refcounts.get(block, index);
      if (index >= firstCluster && index < end) writeCount(view, entry, order, 1);
      else if (count > 0) writeCount(view, entry, order, old.has(index) ? count - 1 : count);
    }
    const offset = (firstCluster + place) * clusterSize;
    table.setU64be(blockIndex * 8, offset);
    yield* file.write(offset, IoVector.of(bytes));
  }
  yield* file.write((firstCluster + blocks.length) * clusterSize, IoVector.of(table.bytes));
  yield* file.flush();
}

/** Those of the table and the blocks that are given up. */
function oldClusters({ refcounts, clusterSize }: ImageState): ReadonlySet<number> {
  const first = refcounts.tableOffset / clusterSize;
  const count = (refcounts.table.length * 8) / clusterSize;
  const blocks = Array.from(
    refcounts.table.filter((offset) => offset !== 0),
    (offset) => offset / clusterSize,
  );
  return new Set([...Array.from({ length: count }, (_, step) => first + step), ...blocks]);
}

function* switchHeader(state: ImageState, { blocks, firstCluster, tableClusters }: Plan, order: number): Co<void> {
  const { file, refcounts, clusterSize, metadata, allocator } = state;
  const sector = new ByteView(new Uint8Array(SECTOR_SIZE));
  const tableOffset = (firstCluster + blocks.length) * clusterSize;
  yield* file.read(0, IoVector.of(sector.bytes));
  sector.setU64be(HEADER_TABLE, tableOffset);
  sector.setU32be(HEADER_TABLE + 8, tableClusters);
  sector.setU32be(HEADER_ORDER, order);
  yield* file.write(0, IoVector.of(sector.bytes));
  yield* file.flush();
  for (const index of oldClusters(state)) metadata.delete(index);
  for (let at = firstCluster; at < firstCluster + blocks.length + tableClusters; at++) metadata.add(at);
  const table = new Float64Array((tableClusters * clusterSize) / 8);
  for (const [place, blockIndex] of blocks.entries()) table[blockIndex] = (firstCluster + place) * clusterSize;
  refcounts.switchTo(order, table, tableOffset);
  allocator.lookFromStart();
  state.header = yield* readHeader(file);
}
