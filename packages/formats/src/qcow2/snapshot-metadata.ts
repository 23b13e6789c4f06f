/** Where the snapshots of an image that is open for writing have their tables: nothing may be written there. */
import { BlockError, type Co } from "@spindle/base";
import type { BlockNode } from "@spindle/block";
import type { Qcow2Header } from "./header.ts";
import { OFFSET_HIGH_MASK, OFFSET_LOW_MASK } from "./l2-entry.ts";
import { readPadded } from "./padded-read.ts";
import { L1_ENTRIES_MAX, readSnapshotTable, TABLE_ENTRIES_MAX } from "./snapshot-table.ts";

/** Bytes of the file. */
export interface FileRange {
  readonly offset: number;
  readonly length: number;
}

export interface SnapshotMetadata {
  readonly table: FileRange;
  readonly l1Tables: readonly FileRange[];
  /** Offsets of L2 tables; one that several snapshots share appears once for each. */
  readonly l2Tables: readonly number[];
}

export const NO_SNAPSHOTS: SnapshotMetadata = { table: { offset: 0, length: 0 }, l1Tables: [], l2Tables: [] };

/** @throws {BlockError} EFBIG when the tables are longer than any image needs. */
export function* readSnapshotMetadata(file: BlockNode, header: Qcow2Header): Co<SnapshotMetadata> {
  if (header.snapshotCount === 0) return NO_SNAPSHOTS;
  const { entries, length } = yield* readSnapshotTable(file, header.snapshotsOffset, header.snapshotCount, false);
  const l1Tables: FileRange[] = [];
  const l2Tables = new Set<number>();
  let left = TABLE_ENTRIES_MAX;
  for (const { l1Offset, l1Entries } of entries) {
    // One that cannot be read protects nothing.
    if (l1Entries > L1_ENTRIES_MAX || l1Offset % 2 ** header.clusterBits !== 0 || l1Offset >= file.length) continue;
    left -= l1Entries;
    if (left < 0) throw new BlockError("EFBIG", "the L1 tables of the snapshots are too long");
    l1Tables.push({ offset: l1Offset, length: l1Entries * 8 });
    yield* collectL2Tables(file, l1Offset, l1Entries, l2Tables);
  }
  return { table: { offset: header.snapshotsOffset, length }, l1Tables, l2Tables: [...l2Tables] };
}

function* collectL2Tables(file: BlockNode, l1Offset: number, l1Entries: number, found: Set<number>): Co<void> {
  const bytes = new Uint8Array(l1Entries * 8);
  yield* readPadded(file, l1Offset, bytes);
  const l1 = new DataView(bytes.buffer);
  for (let at = 0; at < bytes.length; at += 8) {
    const offset = (l1.getUint32(at) & OFFSET_HIGH_MASK) * 2 ** 32 + ((l1.getUint32(at + 4) & OFFSET_LOW_MASK) >>> 0);
    if (offset !== 0) found.add(offset);
  }
}
