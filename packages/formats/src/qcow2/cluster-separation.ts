/**
 * Where more entries refer to a cluster than its refcount can say, a repair gives the later ones copies of their own. The
 * copies stand behind the file's end, where nothing can refer to them; the entries are changed when they are counted.
 */
import { BlockError, ByteView, type Co } from "@spindle/base";
import { IoVector } from "@spindle/block";
import type { CheckedImage } from "./check-image.ts";
import { readPadded } from "./padded-read.ts";
import type { ReferenceCounter } from "./reference-counter.ts";

/** An entry of an L1 or L2 table, and what it shall say. */
interface Move {
  readonly entryOffset: number;
  readonly value: bigint;
}

/** More copies than this are not for a repair to make: the image would grow out of all proportion. */
const MOVES_MAX = 65_536;

export class ClusterSeparation {
  readonly #image: CheckedImage;
  readonly #counter: ReferenceCounter;
  readonly #moves: Move[] = [];

  constructor(image: CheckedImage, counter: ReferenceCounter) {
    this.#image = image;
    this.#counter = counter;
  }

  get isNeeded(): boolean {
    return this.#moves.length > 0;
  }

  /**
   * Copies a range that an entry refers to into new clusters, and counts these.
   * @param entry what the entry says now; the offset is in its low bits
   * @param weight so many L1 entries share the table in which the entry stands
   * @returns where the copy stands, at the same place inside of its cluster
   * @throws {BlockError} EFBIG when too much is shared.
   */
  *copy(entryOffset: number, entry: bigint, offset: number, length: number, weight: number): Co<number> {
    const { clusterSize, file, fileClusters } = this.#image;
    if (this.#moves.length === MOVES_MAX)
      throw new BlockError("EFBIG", "too many entries refer to the same clusters to be repaired", { corrupt: true });
    const inCluster = offset % clusterSize;
    const { counts } = this.#counter;
    const count = Math.ceil((inCluster + length) / clusterSize);
    const first = counts.take(count, fileClusters);
    for (let index = first; index < first + count; index++) counts.set(index, weight);
    const bytes = new Uint8Array(length);
    yield* readPadded(file, offset, bytes);
    const place = first * clusterSize + inCluster;
    yield* file.write(place, IoVector.of(bytes));
    this.#counter.tellOverflow(offset - inCluster, weight);
    this.#moves.push({ entryOffset, value: entry - BigInt(offset) + BigInt(place) });
    return place;
  }

  /** Changes the entries; the copies are durable and counted. */
  *apply(): Co<void> {
    for (const { entryOffset, value } of this.#moves) {
      const entry = new ByteView(new Uint8Array(8));
      entry.setBigU64be(0, value);
      yield* this.#image.file.write(entryOffset, IoVector.of(entry.bytes));
    }
    this.#moves.length = 0;
    yield* this.#image.file.flush();
    yield* this.#image.readL1();
  }
}
