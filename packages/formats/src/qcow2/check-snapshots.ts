/**
 * The part of a check that looks at the snapshot table. It comes first, because the table tells which clusters the
 * snapshots refer to; a table that has to be written anew is placed when the references are known.
 */
import { BlockError, ByteView, type Co } from "@spindle/base";
import { IoVector } from "@spindle/block";
import type { CheckedImage } from "./check-image.ts";
import type { CheckTally } from "./check-tally.ts";
import { ClusterCounts } from "./cluster-counts.ts";
import { SNAPSHOTS_MAX } from "./header.ts";
import { OFFSET_HIGH_MASK, OFFSET_LOW_MASK } from "./l2-entry.ts";
import {
  EXTRA_DATA_LEAST,
  EXTRA_DATA_MAX,
  L1_ENTRIES_MAX,
  readSnapshotTable,
  type SnapshotEntry,
  type SnapshotTable,
  snapshotTableBytes,
  TABLE_ENTRIES_MAX,
} from "./snapshot-table.ts";

/** Where the header holds the number of snapshots and, behind it, the offset of their table. */
const HEADER_SNAPSHOTS = 60;

export interface CheckedSnapshots {
  readonly table: SnapshotTable;
  /** Entries that are wrong; a repair writes the table anew for them. */
  readonly wrong: number;
}

/** @throws {BlockError} EFBIG or EINVAL when the table cannot be read. */
export function* checkSnapshotTable(image: CheckedImage, tally: CheckTally): Co<CheckedSnapshots> {
  const { header, file, clusterSize } = image;
  const repairs = tally.repairsErrors;
  const beyond = header.snapshotCount - SNAPSHOTS_MAX;
  if (beyond > 0 && !repairs) {
    tally.say("ERROR snapshot table too large");
    tally.say(`You can force-remove all ${beyond} overhanging snapshots with qemu-img check -r all`);
    throw new BlockError("EFBIG", "snapshot table too large");
  }
  if (beyond > 0) tally.say(`Discarding ${beyond} overhanging snapshots`);
  if (header.snapshotsOffset % clusterSize !== 0) {
    tally.say("ERROR snapshot table offset invalid");
    throw new BlockError("EINVAL", "snapshot table offset invalid");
  }
  // There the header stands: nothing is left of the table.
  if (header.snapshotsOffset === 0 && header.snapshotCount > 0 && repairs) return yield* dropTable(image, tally);
  const count = Math.min(header.snapshotCount, SNAPSHOTS_MAX);
  const table = yield* readSnapshotTable(file, header.snapshotsOffset, count, repairs);
  const l1Entries = table.entries.reduce((sum, entry) => sum + Math.min(entry.l1Entries, L1_ENTRIES_MAX), 0);
  if (l1Entries > TABLE_ENTRIES_MAX)
    throw new BlockError("EFBIG", "the L1 tables of the snapshots are too long to be checked");
  const overhanging = table.overhanging + Math.max(0, beyond);
  if (table.overhanging > 0)
    tally.say(`Discarding ${table.overhanging} overhanging snapshots (snapshot table is too big)`);
  if (overhanging > 0) {
    // At once: what is behind the kept entries will not be counted any more.
    const number = new ByteView(new Uint8Array(4));
    number.setU32be(0, table.entries.length);
    yield* image.writeHeader(HEADER_SNAPSHOTS, number.bytes);
    tally.corruptionsFixed += overhanging;
  }
  let wrong = 0;
  for (const [index, { extraDataSize }] of table.entries.entries()) {
    if (extraDataSize > EXTRA_DATA_MAX)
      tally.say(
        `Discarding too much extra metadata in snapshot table entry ${index} (${extraDataSize} > ${EXTRA_DATA_MAX})`,
      );
    else if (header.version >= 3 && extraDataSize < EXTRA_DATA_LEAST)
      tally.say(`${tally.verb} snapshot table entry ${index} is incomplete`);
    else continue;
    wrong += 1;
  }
  tally.corruptions += wrong;
  return { table, wrong };
}

function* dropTable(image: CheckedImage, tally: CheckTally): Co<CheckedSnapshots> {
  tally.say("Repairing snapshot table: it is said to be where the header is; given up");
  tally.corruptionsFixed += 1;
  return { table: yield* switchSnapshotTable(image, 0, 0), wrong: 0 };
}

/**
 * Those whose L1 table is in the file, and in no other table's place; the others are told of, and given up by a repair:
 * what another table says would be taken for entries, and mended.
 */
export function readableSnapshots(
  image: CheckedImage,
  { entries, length }: SnapshotTable,
  tally: CheckTally,
): SnapshotEntry[] {
  const { clusterSize, file, header } = image;
  const others = otherTables(image);
  occupy(others, clusterSize, header.snapshotsOffset, length);
  return entries.filter(({ id, name, l1Offset, l1Entries }) => {
    // Offsets that a number cannot hold are not inside either.
    const isInside = l1Offset + l1Entries * 8 - file.length < clusterSize;
    const isTable = l1Offset % clusterSize === 0 && l1Entries <= L1_ENTRIES_MAX && isInside;
    const end = Math.ceil((l1Offset + l1Entries * 8) / clusterSize);
    if (isTable && others.nextCounted(l1Offset / clusterSize) >= end) return true;
    tally.say(`Repairing snapshot ${id} (${name}): its L1 table cannot be read; given up`);
    return false;
  });
}

/** Clusters of the tables that an image has without snapshots. */
function otherTables(image: CheckedImage): ClusterCounts {
  const { clusterSize, fileClusters, header, l1, refcountTable } = image;
  const found = new ClusterCounts(fileClusters);
  const add = (offset: number, length: number): void => occupy(found, clusterSize, offset, length);
  add(0, clusterSize);
  add(header.refcountTableOffset, refcountTable.byteLength);
  for (let block = 0; block < image.blockCount; block++)
    if (image.blockOffset(block) !== 0) add(image.blockOffset(block), 1);
  add(header.l1Offset, l1.byteLength);
  for (let at = 0; at < l1.byteLength; at += 8) {
    const offset = (l1.getUint32(at) & OFFSET_HIGH_MASK) * 2 ** 32 + ((l1.getUint32(at + 4) & OFFSET_LOW_MASK) >>> 0);
    if (offset !== 0) add(offset, 1);
  }
  return found;
}

function occupy(counts: ClusterCounts, clusterSize: number, offset: number, length: number): void {
  const end = Math.min(Math.ceil((offset + length) / clusterSize), counts.length);
  for (let index = Math.floor(offset / clusterSize); index < end; index++) counts.set(index, 1);
}

/** Writes a table where nothing is referred to, and refers to it. Nothing in the file points at it yet. */
export function* placeSnapshotTable(
  image: CheckedImage,
  entries: readonly SnapshotEntry[],
  references: ClusterCounts,
): Co<{ offset: number; clusters: number }> {
  const bytes = snapshotTableBytes(entries, image.header.size);
  if (bytes.length === 0) return { offset: 0, clusters: 0 };
  const clusters = Math.ceil(bytes.length / image.clusterSize);
  const offset = references.take(clusters, 0) * image.clusterSize;
  yield* image.file.write(offset, IoVector.of(bytes));
  return { offset, clusters };
}

/** Lets the header point at a table that is durable and counted. */
export function* switchSnapshotTable(image: CheckedImage, count: number, offset: number): Co<SnapshotTable> {
  const pointer = new ByteView(new Uint8Array(12));
  pointer.setU32be(0, count);
  pointer.setU64be(4, offset);
  yield* image.writeHeader(HEADER_SNAPSHOTS, pointer.bytes);
  image.header = { ...image.header, snapshotCount: count, snapshotsOffset: offset };
  return yield* readSnapshotTable(image.file, offset, count, true);
}
