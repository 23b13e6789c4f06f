/**
 * Bit 63 of an entry of the active state says that what it points at is referred to once, and may be written in place. A
 * flag that is set wrongly lets a write change what something else refers to.
 */
import type { Co } from "@spindle/base";
import { IoVector } from "@spindle/block";
import type { CheckedImage } from "./check-image.ts";
import { hexEntry } from "./check-l2.ts";
import type { CheckTally } from "./check-tally.ts";
import { ClusterCounts } from "./cluster-counts.ts";
import { hasDataFile } from "./header.ts";
import { COMPRESSED_HIGH, COPIED_HIGH, OFFSET_HIGH_MASK, OFFSET_LOW_MASK } from "./l2-entry.ts";
import { readPadded } from "./padded-read.ts";
import type { StoredCounts } from "./stored-counts.ts";

/** L2 tables that several L1 entries share are looked at for each, as QEMU does, but not as often as a hostile image wants. */
const REPEATS_MAX = 100;

/** @param l1Indices the entries of the active L1 table that are to be looked at, with their L2 tables, in ascending order */
export function* checkFlags(
  image: CheckedImage,
  stored: StoredCounts,
  l1Indices: Iterable<number>,
  tally: CheckTally,
): Co<void> {
  // Flags are told by counts, which are right when everything else is.
  const isSound = tally.checkErrors === 0 && tally.corruptions === 0 && tally.leaks === 0;
  const repairs = tally.repairsErrors || (tally.repairsLeaks && isSound);
  const check = new FlagCheck(image, stored, repairs, tally);
  for (const index of l1Indices) yield* check.l1Entry(index);
}

class FlagCheck {
  readonly #image: CheckedImage;
  readonly #stored: StoredCounts;
  readonly #repairs: boolean;
  readonly #tally: CheckTally;
  readonly #bytes: Uint8Array;
  /** Clusters whose L2 tables were looked at. */
  readonly #seen: ClusterCounts;
  #repeats = 0;

  constructor(image: CheckedImage, stored: StoredCounts, repairs: boolean, tally: CheckTally) {
    this.#image = image;
    this.#stored = stored;
    this.#repairs = repairs;
    this.#tally = tally;
    this.#bytes = new Uint8Array(image.clusterSize);
    this.#seen = new ClusterCounts(image.fileClusters);
  }

  *l1Entry(index: number): Co<void> {
    const { l1, file, header } = this.#image;
    const l2Offset = offsetOf(l1, index);
    if (l2Offset === 0) return;
    const wrong = yield* this.#wrongFlag(l1, index, l2Offset, (entry, count) => {
      return `OFLAG_COPIED L2 cluster: l1_index=${index} l1_entry=${entry} refcount=${count}`;
    });
    if (wrong && this.#repairs) {
      yield* file.write(header.l1Offset + index * 8, IoVector.of(new Uint8Array(l1.buffer, index * 8, 8).slice()));
    }
    const cluster = Math.floor(l2Offset / this.#image.clusterSize);
    if (this.#seen.get(cluster) > 0) this.#repeats += 1;
    if (this.#repeats > REPEATS_MAX) return;
    this.#seen.set(cluster, 1);
    yield* this.#l2Table(l2Offset);
  }

  *#l2Table(offset: number): Co<void> {
    const { file } = this.#image;
    if (offset >= file.length) return;
    // Clusters of a data file have one user each, and nothing counts them.
    const known = hasDataFile(this.#image.header) ? 1 : undefined;
    yield* readPadded(file, offset, this.#bytes);
    const table = new DataView(this.#bytes.buffer);
    let isChanged = false;
    const step = this.#image.entries.entryBytes / 8;
    for (let index = 0; index < this.#bytes.length / 8; index += step) {
      const high = table.getUint32(index * 8);
      if ((high & COMPRESSED_HIGH) !== 0) continue;
      const hostOffset = offsetOf(table, index);
      if (hostOffset === 0) continue;
      const cluster = Math.floor(hostOffset / this.#image.clusterSize);
      if (known === undefined && !this.#stored.mayContradict(cluster, high >= COPIED_HIGH)) continue;
      const describe = (entry: string, count: string): string =>
        `OFLAG_COPIED data cluster: l2_entry=${entry} refcount=${count}`;
      const wrong = yield* this.#wrongFlag(table, index, hostOffset, describe, known);
      isChanged ||= wrong && this.#repairs;
    }
    if (isChanged) yield* file.write(offset, IoVector.of(this.#bytes.slice()));
  }

  /** Compares an entry's flag with the count, and corrects it in memory. @returns whether it was wrong */
  *#wrongFlag(
    table: DataView,
    index: number,
    hostOffset: number,
    describe: (entry: string, count: string) => string,
    known?: number,
  ): Co<boolean> {
    const cluster = Math.floor(hostOffset / this.#image.clusterSize);
    const count = known ?? (yield* this.#stored.count(cluster));
    const high = table.getUint32(index * 8);
    if (count === undefined || (count === 1) === high >= COPIED_HIGH) return false;
    const repairs = this.#repairs;
    const entry = hexEntry(high, table.getUint32(index * 8 + 4));
    this.#tally.say(
      `${repairs ? "Repairing" : "ERROR"} ${describe(entry, known === undefined ? this.#stored.text(cluster, count) : String(count))}`,
    );
    if (repairs) {
      table.setUint32(index * 8, count === 1 ? high + COPIED_HIGH : high - COPIED_HIGH);
      this.#tally.corruptionsFixed += 1;
    } else this.#tally.corruptions += 1;
    return true;
  }
}

function offsetOf(table: DataView, index: number): number {
  const low = table.getUint32(index * 8 + 4);
  return (table.getUint32(index * 8) & OFFSET_HIGH_MASK) * 2 ** 32 + ((low & OFFSET_LOW_MASK) >>> 0);
}
