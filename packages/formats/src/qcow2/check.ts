/**
 * Checks a qcow2 image, and repairs it: what QEMU calls a check, with its numbers and its words. A repair leaves an image in
 * which a second check finds nothing, in this order, each step durable before the next:
 *
 *   1. the snapshot table's length; entries that cannot be true are mended or given up (mend-entries.ts)
 *   2. counts are corrected in place, or table and blocks made anew where they cannot be (rebuild-refcounts.ts)
 *   3. flags of entries follow the counts (check-flags.ts); a new snapshot table takes the place of the old one
 *   4. the marks "dirty" and "corrupt" are taken away
 *
 * After each step the image is no worse than before: clusters are counted down only when nothing in the file refers to
 * them, and counted up before anything new does.
 */
import { BlockError, ByteView, type Co, isBlockError } from "@spindle/base";
import type { BlockNode, CheckRequest, CheckResult } from "@spindle/block";
import { readBitmapDirectory } from "./bitmap-directory.ts";
import { CountCheck } from "./check-counts.ts";
import { checkFlags } from "./check-flags.ts";
import { CheckedImage } from "./check-image.ts";
import { type CheckedSnapshots, checkSnapshotTable, readableSnapshots } from "./check-snapshots.ts";
import { CheckTally } from "./check-tally.ts";
import {
  QCOW2_AUTOCLEAR_BITMAPS,
  QCOW2_AUTOCLEAR_RAW_DATA,
  QCOW2_INCOMPAT_CORRUPT,
  QCOW2_INCOMPAT_DIRTY,
} from "./header.ts";
import { mendEntries } from "./mend-entries.ts";
import { readHeader } from "./read-header.ts";
import type { SnapshotTable } from "./snapshot-table.ts";

const HEADER_INCOMPATIBLE = 72;
const HEADER_AUTOCLEAR = 88;

/**
 * @throws {BlockError} EINVAL or ENOTSUP with `Could not open` when the file is no image that can be checked; EFBIG for
 *   tables that are larger than any image needs; EIO when leaks are to be given back and the counts cannot be relied on.
 */
export function* checkQcow2(file: BlockNode, request: CheckRequest): Co<CheckResult> {
  const image = yield* openImage(file);
  const tally = new CheckTally(request.repair, request.report);
  tally.totalClusters = Math.ceil((image.header.size - (image.header.size % 512)) / image.clusterSize);
  yield* new Check(image, tally).run();
  return tally.result();
}

function* openImage(file: BlockNode): Co<CheckedImage> {
  try {
    return yield* CheckedImage.open(file, yield* readHeader(file, true));
  } catch (error) {
    throw isBlockError(error) ? couldNotOpen(file, error) : error;
  }
}

function couldNotOpen(file: BlockNode, error: BlockError): BlockError {
  const message = `Could not open '${file.filename ?? file.name}': ${error.message}`;
  return new BlockError(error.code, message, error.context, error);
}

class Check {
  readonly #image: CheckedImage;
  readonly #tally: CheckTally;

  constructor(image: CheckedImage, tally: CheckTally) {
    this.#image = image;
    this.#tally = tally;
  }

  *run(): Co<void> {
    const image = this.#image;
    const tally = this.#tally;
    if (tally.repair !== "none") {
      this.#checkRepairable();
      yield* this.#clearUnknownFeatures();
    }
    yield* this.#checkBitmaps();
    const snapshots = yield* checkSnapshotTable(image, tally);
    const kept = tally.repairsErrors ? yield* this.#mend(snapshots) : snapshots.table.entries;
    const table = { ...snapshots.table, entries: kept };
    const counts = new CountCheck(image, table, tally);
    yield* counts.read();
    const rewritesTable = tally.repairsErrors && (snapshots.wrong > 0 || kept.length < snapshots.table.entries.length);
    if (rewritesTable) yield* counts.placeTable();
    const changed = yield* counts.compare();
    const { suspects } = counts.references;
    yield* checkFlags(image, counts.stored, changed ? everyEntry(image.l1) : suspects, tally);
    if (rewritesTable) yield* counts.switchTable();
    tally.imageEndOffset = (counts.highestCluster + 1) * image.clusterSize;
    if (tally.repair !== "none" && tally.checkErrors === 0 && tally.corruptions === 0) yield* markConsistent(image);
  }

  /** Without its L1 table nothing of the disk is known: a repair would give all of it back as leaked. */
  #checkRepairable(): void {
    const { header, file, clusterSize, l1, refcountTable } = this.#image;
    const overlaps = (offset: number, length: number): boolean =>
      header.l1Offset < offset + length && offset < header.l1Offset + l1.byteLength;
    const isOutside = header.l1Offset + l1.byteLength - file.length >= clusterSize;
    if (l1.byteLength === 0) return;
    if (isOutside || overlaps(0, clusterSize) || overlaps(header.refcountTableOffset, refcountTable.byteLength))
      throw new BlockError("EIO", "the L1 table is lost, and with it the disk: nothing is repaired", { corrupt: true });
  }

  /** What a writer does not know it does not keep up, and says so by clearing these bits. */
  *#clearUnknownFeatures(): Co<void> {
    const { autoclear } = this.#image.header;
    const known = autoclear & (QCOW2_AUTOCLEAR_BITMAPS | QCOW2_AUTOCLEAR_RAW_DATA);
    if (known !== autoclear) yield* writeFeatures(this.#image, HEADER_AUTOCLEAR, known);
  }

  /** Bitmaps that cannot be read are an error as when the image is opened; a repair gives them up. */
  *#checkBitmaps(): Co<void> {
    const image = this.#image;
    const { bitmaps, file, clusterSize, header } = image;
    if (bitmaps === null) return;
    try {
      yield* readBitmapDirectory(file, bitmaps, clusterSize, header.size);
    } catch (error) {
      if (!isBlockError(error, "EINVAL")) throw error;
      if (!this.#tally.repairsErrors) throw couldNotOpen(file, error);
      this.#tally.say(`Repairing bitmap directory: ${error.message}; all bitmaps given up`);
      this.#tally.corruptionsFixed += 1;
      yield* writeFeatures(image, HEADER_AUTOCLEAR, header.autoclear & ~QCOW2_AUTOCLEAR_BITMAPS);
      image.bitmaps = null;
    }
  }

  /** @returns the snapshots that are kept */
  *#mend({ table, wrong }: CheckedSnapshots): Co<SnapshotTable["entries"]> {
    const image = this.#image;
    const kept = readableSnapshots(image, table, this.#tally);
    // The new table mends them.
    this.#tally.corruptions -= wrong;
    this.#tally.corruptionsFixed += wrong + table.entries.length - kept.length;
    yield* mendEntries(image, kept, this.#tally);
    yield* image.file.flush();
    return kept;
  }
}

/** The entries of an L1 table, by their indices. */
function* everyEntry(l1: DataView): Generator<number> {
  for (let index = 0; index < l1.byteLength / 8; index++) yield index;
}

/** Takes the marks of an unclean end and of corruption away. */
function* markConsistent(image: CheckedImage): Co<void> {
  const { incompatible } = image.header;
  const clean = incompatible & ~(QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT);
  if (clean === incompatible) return;
  yield* image.file.flush();
  yield* writeFeatures(image, HEADER_INCOMPATIBLE, clean);
}

function* writeFeatures(image: CheckedImage, offset: number, bits: bigint): Co<void> {
  const field = new ByteView(new Uint8Array(8));
  field.setBigU64be(0, bits);
  yield* image.writeHeader(offset, field.bytes);
}
