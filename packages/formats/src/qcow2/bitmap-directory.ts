/**
 * The directory of persistent bitmaps (qcow2 specification, "Bitmaps"), as far as it tells which clusters are in use: the
 * directory's own, each bitmap's table, and the clusters that the tables name.
 */
import { alignUp, BlockError, ByteView, type Co, decodeUtf8 } from "@spindle/base";
import type { BlockNode } from "@spindle/block";
import type { HeaderExtension } from "./header-extensions.ts";
import { readPadded } from "./padded-read.ts";

const EXTENSION_BYTES = 24;
const BITMAPS_MAX = 65_535;
const DIRECTORY_BYTES_MAX = 65_535 * (24 + 1023);
const ENTRY_BYTES = 24;
const NAME_MAX = 1023;
const TABLE_ENTRIES_MAX = 0x8000000;
const BITMAP_BYTES_MAX = 0x20000000;
const GRANULARITY_BITS = { least: 9, most: 31 } as const;
const FLAG_IN_USE = 1;
const FLAGS_RESERVED = 0xfffffffc;
const TYPE_DIRTY_TRACKING = 1;

/** Where the header says that the directory is. */
export interface BitmapDirectoryPlace {
  readonly count: number;
  readonly offset: number;
  readonly length: number;
}

export interface BitmapTable {
  readonly name: string;
  readonly offset: number;
  /** Entries of 8 bytes. */
  readonly entries: number;
}

/** @throws {BlockError} EINVAL when the header extension cannot be true. */
export function bitmapDirectoryPlace({ data }: HeaderExtension, clusterSize: number): BitmapDirectoryPlace {
  if (data.length !== EXTENSION_BYTES) throw invalid("bitmaps_ext: Invalid extension length");
  const view = new ByteView(data);
  if (view.u32be(4) !== 0) throw invalid("bitmaps_ext: Reserved field is not zero");
  const count = view.u32be(0);
  if (count > BITMAPS_MAX)
    throw invalid(`bitmaps_ext: Image has ${count} bitmaps, exceeding the QEMU supported maximum of ${BITMAPS_MAX}`);
  if (count === 0) throw invalid("found bitmaps extension with zero bitmaps");
  const offset = view.u64be(16, "bitmap directory offset");
  if (offset % clusterSize !== 0) throw invalid("bitmaps_ext: invalid bitmap directory offset");
  const length = view.u64be(8, "bitmap directory size");
  if (length > DIRECTORY_BYTES_MAX)
    throw invalid(
      `bitmaps_ext: bitmap directory size (${length}) exceeds the maximum supported size (${DIRECTORY_BYTES_MAX})`,
    );
  return { count, offset, length };
}

/**
 * @param diskSize bytes
 * @throws {BlockError} EINVAL when the directory or one of its entries cannot be true.
 */
export function* readBitmapDirectory(
  file: BlockNode,
  { offset, length, count }: BitmapDirectoryPlace,
  clusterSize: number,
  diskSize: number,
): Co<BitmapTable[]> {
  if (length === 0) throw invalid("Requested bitmap directory size is zero");
  const view = new ByteView(new Uint8Array(length));
  yield* readPadded(file, offset, view.bytes);
  const tables: BitmapTable[] = [];
  for (let at = 0; at < length; ) {
    if (at + ENTRY_BYTES > length) throw invalid("Broken bitmap directory");
    if (tables.length === count) throw invalid("More bitmaps found than specified in header extension");
    const nameSize = view.u16be(at + 18);
    const extraSize = view.u32be(at + 20);
    const end = at + alignUp(ENTRY_BYTES + nameSize + extraSize, 8);
    if (end > length) throw invalid("Broken bitmap directory");
    if (extraSize !== 0) throw invalid("Bitmap extra data is not supported");
    const nameAt = at + ENTRY_BYTES;
    const name = decodeUtf8(view.bytes.subarray(nameAt, nameAt + nameSize));
    if (!isPossible(view, at, clusterSize, diskSize)) throw invalid(`Bitmap '${name}' doesn't satisfy the constraints`);
    tables.push({ name, offset: view.u64be(at, "bitmap table offset"), entries: view.u32be(at + 8) });
    at = end;
  }
  if (tables.length !== count) throw invalid("Less bitmaps found than specified in header extension");
  return tables;
}

function isPossible(view: ByteView, at: number, clusterSize: number, diskSize: number): boolean {
  const offset = view.bigU64be(at);
  const entries = view.u32be(at + 8);
  const flags = view.u32be(at + 12);
  const granularityBits = view.u8(at + 17);
  if (offset === 0n || offset % BigInt(clusterSize) !== 0n || offset >= 2n ** 53n) return false;
  if (entries === 0 || entries > TABLE_ENTRIES_MAX || entries * clusterSize > BITMAP_BYTES_MAX) return false;
  if (granularityBits < GRANULARITY_BITS.least || granularityBits > GRANULARITY_BITS.most) return false;
  if ((flags & FLAGS_RESERVED) !== 0 || view.u16be(at + 18) > NAME_MAX) return false;
  if (view.u8(at + 16) !== TYPE_DIRTY_TRACKING) return false;
  // A bitmap that was in use may be of another time, when the disk was shorter.
  return (flags & FLAG_IN_USE) !== 0 || diskSize <= entries * clusterSize * 8 * 2 ** granularityBits;
}

/**
 * The host offsets of the clusters that one bitmap has.
 * @throws {BlockError} EINVAL when an entry of its table cannot be true.
 */
export function* readBitmapTable(
  file: BlockNode,
  { name, offset, entries }: BitmapTable,
  clusterSize: number,
): Co<number[]> {
  const bytes = new Uint8Array(entries * 8);
  yield* readPadded(file, offset, bytes);
  const view = new DataView(bytes.buffer);
  const clusters: number[] = [];
  for (let at = 0; at < bytes.length; at += 8) {
    const high = view.getUint32(at);
    const low = view.getUint32(at + 4);
    const hostOffset = (high & 0x00ffffff) * 2 ** 32 + ((low & 0xfffffe00) >>> 0);
    const hasReserved = (high & 0xff000000) !== 0 || (low & 0x1fe) !== 0;
    if (hasReserved || (hostOffset !== 0 && ((low & 1) !== 0 || hostOffset % clusterSize !== 0)))
      throw invalid(`Could not read bitmap_table table from image for bitmap '${name}': Invalid argument`);
    if (hostOffset !== 0) clusters.push(hostOffset);
  }
  return clusters;
}

function invalid(message: string): BlockError {
  return new BlockError("EINVAL", message);
}
