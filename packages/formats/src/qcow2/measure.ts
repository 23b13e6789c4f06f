/** How long the file of a new qcow2 image becomes, counted as QEMU counts it: its tables for the whole disk, and the data. */
import { alignUp, BlockError, encodeUtf8 } from "@spindle/base";
import type { MeasuredSize, MeasureOptions } from "@spindle/block";
import { bitmapEntryLength, bitmapTableEntries } from "./bitmap-directory.ts";
import { planLayout } from "./create.ts";
import { checkSecretGiven } from "./encryption-options.ts";
import { l2EntryBytes } from "./header.ts";

const L1_BYTES_MAX = 32 * 1024 * 1024;

/** @throws {BlockError} EINVAL or ENOTSUP when an option cannot be met, EFBIG when the disk is too large for the clusters. */
export function measureQcow2({ size, options, data, bitmaps }: MeasureOptions): MeasuredSize {
  const { preallocation = "off" } = options;
  const layout = planLayout({ size: 0, options });
  const { version, clusterSize, refcountOrder, encryption, cryptoClusters } = layout;
  checkSecretGiven(encryption, options);
  const entryBytes = l2EntryBytes(layout);
  const length = alignUp(size, clusterSize);
  const l2Tables = Math.ceil(length / clusterSize / (clusterSize / entryBytes));
  if (l2Tables * 8 > L1_BYTES_MAX)
    throw new BlockError("EFBIG", "The image size is too large (try using a larger cluster size)");
  const whole = length + metadataBytes(length, clusterSize, refcountOrder, entryBytes) + cryptoClusters * clusterSize;
  const isWhole = data === null || preallocation === "falloc" || preallocation === "full";
  const stored = isWhole ? length : clusterBytes(data, clusterSize);
  const measured = { required: whole - length + stored, "fully-allocated": whole };
  if (bitmaps === undefined || version < 3) return measured;
  return { ...measured, bitmaps: bitmapBytes(bitmaps, size, clusterSize) };
}

/** With all of their bits stored. */
function bitmapBytes(bitmaps: NonNullable<MeasureOptions["bitmaps"]>, size: number, clusterSize: number): number {
  let bytes = 0;
  let directory = 0;
  for (const { name, granularity } of bitmaps) {
    const entries = bitmapTableEntries(size, granularity, clusterSize);
    bytes += entries * clusterSize + alignUp(entries * 8, clusterSize);
    directory += bitmapEntryLength(encodeUtf8(name).length);
  }
  return bytes + alignUp(directory, clusterSize);
}

/** The clusters in which there is data. */
function clusterBytes(data: NonNullable<MeasureOptions["data"]>, clusterSize: number): number {
  let bytes = 0;
  let seen = 0;
  for (const { offset, length } of data) {
    const start = Math.max(seen, offset - (offset % clusterSize));
    const end = alignUp(offset + length, clusterSize);
    bytes += Math.max(0, end - start);
    seen = Math.max(seen, end);
  }
  return bytes;
}

function metadataBytes(length: number, clusterSize: number, refcountOrder: number, entryBytes: number): number {
  const entriesPerTable = clusterSize / entryBytes;
  const l2Entries = alignUp(length / clusterSize, entriesPerTable);
  const l1Entries = alignUp(l2Entries / entriesPerTable, clusterSize / 8);
  const tables = clusterSize + l2Entries * entryBytes + l1Entries * 8;
  return tables + refcountBytes((tables + length) / clusterSize, clusterSize, refcountOrder);
}

/** The refcount table and its blocks, which are counted themselves. */
function refcountBytes(clusters: number, clusterSize: number, refcountOrder: number): number {
  const perBlock = (clusterSize * 8) / 2 ** refcountOrder;
  let blocks = 0;
  let tables = 0;
  for (let before = -1; before !== blocks + tables; ) {
    before = blocks + tables;
    blocks = Math.ceil((clusters + tables + blocks) / perBlock);
    tables = Math.ceil(blocks / (clusterSize / 8));
  }
  return (blocks + tables) * clusterSize;
}
