/** The refcounts as an image's refcount blocks have them, for a check: read once, compared, and changed by a repair. */
import type { Co } from "@spindle/base";
import { IoVector } from "@spindle/block";
import type { CheckedImage } from "./check-image.ts";
import type { CheckTally } from "./check-tally.ts";
import { ClusterCounts } from "./cluster-counts.ts";
import { readPadded } from "./padded-read.ts";
import { readCount, writeCount } from "./refcount.ts";

/** No file reaches so far. */
const OFFSET_END: number = 2 ** 63;

export class StoredCounts {
  readonly counts: ClusterCounts;
  readonly #image: CheckedImage;
  /** Blocks that stand where none can: what they count is not known. */
  readonly #unreadable: Set<number> = new Set();
  /** Counts that a number cannot hold. */
  readonly #exact: Map<number, bigint> = new Map();
  /** Blocks whose counts were changed. */
  readonly #changed: Set<number> = new Set();

  private constructor(image: CheckedImage, clusters: number) {
    this.#image = image;
    this.counts = new ClusterCounts(clusters);
  }

  /** @param clusters how many are looked at; those of the file, as QEMU does, when absent */
  static *read(image: CheckedImage, clusters: number = image.fileClusters): Co<StoredCounts> {
    const stored = new StoredCounts(image, clusters);
    const blocks = Math.ceil(stored.counts.length / image.clustersPerBlock);
    const bytes = new Uint8Array(image.clusterSize);
    for (let block = 0; block < Math.min(blocks, image.refcountTableEntries); block++) {
      const offset = image.blockOffset(block);
      if (!stored.#canStand(offset)) stored.#unreadable.add(block);
      else if (offset !== 0 && offset < image.file.length) {
        yield* readPadded(image.file, offset, bytes);
        stored.#take(block, new DataView(bytes.buffer));
      }
    }
    return stored;
  }

  /** Whether a block may be there, in the file or not. */
  #canStand(offset: number): boolean {
    return offset % this.#image.clusterSize === 0 && offset < OFFSET_END;
  }

  #take(block: number, view: DataView): void {
    const { clustersPerBlock, header } = this.#image;
    const first = block * clustersPerBlock;
    const { counts } = this;
    const count = Math.min(clustersPerBlock, counts.length - first);
    const order = header.refcountOrder;
    // The common width, without a call for each of what may be millions of entries.
    if (order === 4)
      for (let entry = 0; entry < count; entry++) {
        const value = view.getUint16(entry * 2);
        if (value !== 0) counts.set(first + entry, value);
      }
    else
      for (let entry = 0; entry < count; entry++) {
        const value = readCount(view, entry, order);
        if (value !== 0) counts.set(first + entry, value);
        if (value > Number.MAX_SAFE_INTEGER) this.#exact.set(first + entry, view.getBigUint64(entry * 8));
      }
  }

  /** A count in digits, also where a number cannot hold it. */
  text(index: number, count: number): string {
    return `${this.#exact.get(index) ?? count}`;
  }

  /** Tells of the blocks that cannot be read, as of errors of the check for each of their clusters. */
  tellUnreadable(tally: CheckTally): void {
    const { clustersPerBlock } = this.#image;
    let isFirst = true;
    for (const block of this.#unreadable) {
      const first = block * clustersPerBlock;
      const end = Math.min(first + clustersPerBlock, this.counts.length);
      const offset = this.#image.blockOffset(block);
      const place = `0x${BigInt(offset).toString(16)}`;
      if (isFirst && offset % this.#image.clusterSize !== 0)
        tally.say(
          `qcow2: Image is corrupt: Refblock offset ${place} unaligned (reftable index: 0x${block.toString(16)}); ` +
            "further non-fatal corruption events will be suppressed",
        );
      isFirst = false;
      tally.say(`Can't get refcount for clusters ${first} to ${end - 1}: Input/output error`);
      // Making the counts anew, as a repair of everything does, needs none of them.
      if (!tally.repairsErrors) tally.checkErrors += end - first;
    }
  }

  /** Whether the block of a cluster is said to stand where none can. */
  isUnreadable(index: number): boolean {
    return this.#unreadable.size > 0 && this.#unreadable.has(Math.floor(index / this.#image.clustersPerBlock));
  }

  /** Whether a flag that says "referred to once" may not agree with the count; it has to be looked at closely then. */
  mayContradict(index: number, isOne: boolean): boolean {
    const { counts } = this;
    return index >= counts.length || (counts.get(index) === 1) !== isOne || this.isUnreadable(index);
  }

  /** The count of any cluster, also of one beyond the end of the file; undefined when it is not known. */
  *count(index: number): Co<number | undefined> {
    if (index < this.counts.length) return this.isUnreadable(index) ? undefined : this.counts.get(index);
    const { clusterSize, clustersPerBlock, file, header } = this.#image;
    const offset = this.#image.blockOffset(Math.floor(index / clustersPerBlock));
    if (!this.#canStand(offset)) return undefined;
    if (offset === 0) return 0;
    const bytes = new Uint8Array(clusterSize);
    yield* readPadded(file, offset, bytes);
    const view = new DataView(bytes.buffer);
    const entry = index % clustersPerBlock;
    const count = readCount(view, entry, header.refcountOrder);
    if (count > Number.MAX_SAFE_INTEGER) this.#exact.set(index, view.getBigUint64(entry * 8));
    return count;
  }

  /** Takes the counts of more clusters: the file may end inside of its last one, and something refer to more than that. */
  *extend(length: number): Co<void> {
    const added: number[] = [];
    for (let index = this.counts.length; index < length; index++) added.push((yield* this.count(index)) ?? 0);
    const first = this.counts.length;
    this.counts.grow(length);
    for (const [step, count] of added.entries()) this.counts.set(first + step, count);
  }

  /** Changes a count; {@link write} brings it to the file. */
  set(index: number, count: number): void {
    this.counts.set(index, count);
    this.#exact.delete(index);
    this.#changed.add(Math.floor(index / this.#image.clustersPerBlock));
  }

  /** Writes the blocks whose counts were changed. */
  *write(): Co<void> {
    const { clusterSize, clustersPerBlock, file, header } = this.#image;
    const bytes = new Uint8Array(clusterSize);
    const view = new DataView(bytes.buffer);
    for (const block of this.#changed) {
      const offset = this.#image.blockOffset(block);
      yield* readPadded(file, offset, bytes);
      const first = block * clustersPerBlock;
      const count = Math.min(clustersPerBlock, this.counts.length - first);
      for (let entry = 0; entry < count; entry++)
        writeCount(view, entry, header.refcountOrder, this.counts.get(first + entry));
      yield* file.write(offset, IoVector.of(bytes.slice()));
    }
    this.#changed.clear();
  }
}
