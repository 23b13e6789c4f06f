/**
 * Makes the refcount table and its blocks anew from what the tables of an image refer to. They are written where nothing
 * is referred to; the header points at them when all of it is durable, so that a crash leaves the old ones or the new ones.
 */
import { BlockError, ByteView, type Co } from "@spindle/base";
import { IoVector } from "@spindle/block";
import type { CheckedImage } from "./check-image.ts";
import type { ClusterCounts } from "./cluster-counts.ts";
import { writeCount } from "./refcount.ts";

const TABLE_BYTES_MAX = 8 * 1024 * 1024;
/** Where the header holds the refcount table's offset and, behind it, its clusters. */
const HEADER_REFCOUNT_TABLE = 48;

/**
 * @param references what the tables refer to; what the new table and blocks take is added. The old ones stay counted.
 * @throws {BlockError} EFBIG when the table would be larger than an image may have.
 */
export function* rebuildRefcounts(image: CheckedImage, references: ClusterCounts): Co<void> {
  const plan = new Plan(image, references);
  plan.placeBlocks(0, references.length);
  const { offset, clusters } = plan.placeTable();
  yield* writeBlocks(image, plan.blocks, references);
  yield* image.file.flush();
  const table = new ByteView(new Uint8Array(clusters * image.clusterSize));
  for (const [block, cluster] of plan.blocks) table.setU64be(block * 8, cluster * image.clusterSize);
  yield* image.file.write(offset, IoVector.of(table.bytes));
  yield* image.file.flush();
  const pointer = new ByteView(new Uint8Array(12));
  pointer.setU64be(0, offset);
  pointer.setU32be(8, clusters);
  yield* image.writeHeader(HEADER_REFCOUNT_TABLE, pointer.bytes);
  image.header = { ...image.header, refcountTableOffset: offset, refcountTableClusters: clusters };
  yield* image.readRefcountTable();
}

class Plan {
  /** The cluster of each block that is needed, by the block's index. */
  readonly blocks: Map<number, number> = new Map();
  readonly #image: CheckedImage;
  readonly #references: ClusterCounts;
  #lastBlock = 0;

  constructor(image: CheckedImage, references: ClusterCounts) {
    this.#image = image;
    this.#references = references;
  }

  /** Finds places for the blocks that count the clusters of a range, and for those that count these blocks. */
  placeBlocks(from: number, to: number): void {
    const { clustersPerBlock } = this.#image;
    let end = to;
    for (let index = this.#references.nextCounted(from); index < end; index = this.#references.nextCounted(index)) {
      const block = Math.floor(index / clustersPerBlock);
      if (!this.blocks.has(block)) {
        // Not in a range that was passed by: its block would have to be changed.
        const cluster = this.#references.take(1, block * clustersPerBlock);
        this.blocks.set(block, cluster);
        this.#lastBlock = Math.max(this.#lastBlock, block);
        end = Math.max(end, cluster + 1);
      }
      index = (block + 1) * clustersPerBlock;
    }
  }

  /** Finds a place for the table. Counting it may take more blocks, and those a longer table. */
  placeTable(): { offset: number; clusters: number } {
    const { clusterSize } = this.#image;
    for (;;) {
      const clusters = Math.ceil(((this.#lastBlock + 1) * 8) / clusterSize);
      if (clusters * clusterSize > Math.max(TABLE_BYTES_MAX, clusterSize))
        throw new BlockError("EFBIG", "the image's refcount table would be too large");
      const first = this.#references.take(clusters, 0);
      this.placeBlocks(first, first + clusters);
      if ((this.#lastBlock + 1) * 8 <= clusters * clusterSize) return { offset: first * clusterSize, clusters };
      for (let index = first; index < first + clusters; index++) this.#references.set(index, 0);
    }
  }
}

function* writeBlocks(image: CheckedImage, blocks: ReadonlyMap<number, number>, references: ClusterCounts): Co<void> {
  const { clustersPerBlock, clusterSize, header, file } = image;
  for (const [block, cluster] of blocks) {
    const bytes = new Uint8Array(clusterSize);
    const view = new DataView(bytes.buffer);
    const first = block * clustersPerBlock;
    const end = Math.min(first + clustersPerBlock, references.length);
    for (let index = references.nextCounted(first); index < end; index = references.nextCounted(index + 1))
      writeCount(view, index - first, header.refcountOrder, references.get(index));
    yield* file.write(cluster * clusterSize, IoVector.of(bytes));
  }
}
