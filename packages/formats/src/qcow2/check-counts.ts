/** The part of a check that compares what an image counts with what its tables refer to, and corrects the counts. */
import { BlockError, type Co } from "@spindle/base";
import type { CheckedImage } from "./check-image.ts";
import { countReferences, type References } from "./check-references.ts";
import { placeSnapshotTable, switchSnapshotTable } from "./check-snapshots.ts";
import { CheckTally } from "./check-tally.ts";
import { type Comparison, type Corrections, compareCounts, NO_CORRECTIONS } from "./compare-counts.ts";
import { rebuildRefcounts } from "./rebuild-refcounts.ts";
import type { SnapshotTable } from "./snapshot-table.ts";
import { StoredCounts } from "./stored-counts.ts";

export class CountCheck {
  readonly #image: CheckedImage;
  #snapshots: SnapshotTable;
  readonly #tally: CheckTally;
  /** Where the table of snapshots stands that is to replace the present one. */
  #newTable: { readonly offset: number; readonly clusters: number } | undefined;
  stored!: StoredCounts;
  references!: References;
  /** The last cluster that is counted or referred to. */
  highestCluster = 0;

  /** @param snapshots those that are kept; the length is that of the table in the file */
  constructor(image: CheckedImage, snapshots: SnapshotTable, tally: CheckTally) {
    this.#image = image;
    this.#snapshots = snapshots;
    this.#tally = tally;
  }

  *read(): Co<void> {
    this.stored = yield* StoredCounts.read(this.#image);
    this.references = yield* countReferences(this.#image, this.#snapshots, this.stored, this.#tally);
    const { offset, clusters } = this.#newTable ?? { offset: 0, clusters: 0 };
    const first = offset / this.#image.clusterSize;
    for (let index = first; index < first + clusters; index++) this.references.counts.set(index, 1);
    yield* this.stored.extend(this.references.counts.length);
  }

  /** Writes a new snapshot table, at which nothing points yet. */
  *placeTable(): Co<void> {
    this.#newTable = yield* placeSnapshotTable(this.#image, this.#snapshots.entries, this.references.counts);
    yield* this.stored.extend(this.references.counts.length);
  }

  /**
   * @returns whether counts were changed
   * @throws {BlockError} EIO when only leaks may be mended and the counts cannot be relied on.
   */
  *compare(): Co<boolean> {
    const tally = this.#tally;
    const { corruptions, leaks, checkErrors } = tally;
    const found = this.#compare(NO_CORRECTIONS, tally);
    const { separation } = this.references;
    // Copies are entered when they are counted, which making the counts anew sees to.
    const needsRebuild = found.needsRebuild || this.references.needsRebuild || separation?.isNeeded === true;
    if (tally.repair === "none") return false;
    if (needsRebuild && tally.repairsErrors) {
      yield* this.#rebuild();
      return true;
    }
    if (needsRebuild) {
      tally.say("ERROR need to rebuild refcount structures");
      throw new BlockError("EIO", "the refcounts have to be made anew", { corrupt: true });
    }
    if (tally.leaks === 0 && tally.corruptions === 0) return false;
    Object.assign(tally, { corruptions, leaks, checkErrors });
    this.#compare({ tooHigh: true, tooLow: tally.repairsErrors }, tally);
    yield* this.#write();
    return true;
  }

  /** Lets the new snapshot table take the place of the old one, whose clusters are given back. */
  *switchTable(): Co<void> {
    const { offset } = this.#newTable ?? { offset: 0 };
    const { entries } = this.#snapshots;
    yield* this.#image.file.flush();
    this.#snapshots = yield* switchSnapshotTable(this.#image, entries.length, offset);
    this.#newTable = undefined;
    yield* this.read();
    this.#compare({ tooHigh: true, tooLow: false }, new CheckTally(this.#tally.repair, this.#tally.say));
    yield* this.#write();
  }

  #compare(corrections: Corrections, tally: CheckTally): Comparison {
    const found = compareCounts(this.stored, this.references.counts, corrections, tally);
    this.highestCluster = found.highestCluster;
    return found;
  }

  *#write(): Co<void> {
    yield* this.stored.write();
    yield* this.#image.file.flush();
  }

  /** Makes the counts anew, and gives back what the old table and its blocks took. */
  *#rebuild(): Co<void> {
    const tally = this.#tally;
    const { corruptions, leaks } = tally;
    tally.say("Rebuilding refcount structure");
    yield* rebuildRefcounts(this.#image, this.references.counts);
    if (this.references.separation?.isNeeded === true) yield* this.references.separation.apply();
    tally.startAgain();
    yield* this.read();
    const old = new CheckTally(tally.repair, tally.say);
    const again = this.#compare({ tooHigh: true, tooLow: false }, old);
    if (again.needsRebuild) tally.say("ERROR rebuilt refcount structure is still broken");
    yield* this.#write();
    tally.corruptionsFixed += Math.max(0, corruptions - tally.corruptions);
    tally.leaksFixed += leaks;
    tally.leaks += old.leaks;
    tally.corruptions += old.corruptions;
  }
}
