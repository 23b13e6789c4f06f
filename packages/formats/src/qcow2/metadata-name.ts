/** What kind of metadata a host cluster holds, in the words of QEMU's overlap checks. */
import { BlockError } from "@spindle/base";
import type { ImageState } from "./image-state.ts";
import { readL1Entry } from "./l2-entry.ts";
import { placeIn } from "./persistent-bitmaps.ts";

function metadataName(state: ImageState, index: number): string {
  const { header, clusterSize, refcounts, l1 } = state;
  const isAt = (offset: number, length: number): boolean =>
    index * clusterSize < offset + length && offset < (index + 1) * clusterSize;
  if (index === 0) return "qcow2_header";
  if (isAt(header.l1Offset, header.l1Entries * 8)) return "active L1 table";
  if (isAt(refcounts.tableOffset, refcounts.table.length * 8)) return "refcount table";
  if (refcounts.table.includes(index * clusterSize)) return "refcount block";
  for (let entry = 0; entry < header.l1Entries; entry++)
    if (readL1Entry(l1, entry, clusterSize).hostOffset === index * clusterSize) return "active L2 table";
  const bitmaps = placeIn(header);
  if (bitmaps !== null && isAt(bitmaps.offset, bitmaps.length)) return "bitmap directory";
  const { cryptoHeader } = header;
  if (cryptoHeader !== null && isAt(cryptoHeader.offset, cryptoHeader.length)) return "encryption header";
  const { table, l1Tables } = state.snapshots;
  if (isAt(table.offset, table.length)) return "snapshot table";
  return l1Tables.some(({ offset, length }) => isAt(offset, length)) ? "inactive L1 table" : "inactive L2 table";
}

/** A write, or giving a cluster up, would hit metadata. */
export function overlap(state: ImageState, index: number): BlockError {
  const message = `Preventing invalid write on metadata (overlaps with ${metadataName(state, index)})`;
  const { clusterSize } = state;
  return new BlockError("EIO", message, { corrupt: true, offset: index * clusterSize, length: clusterSize });
}
