/**
 * The directory of persistent bitmaps and the tables of the clusters that hold their bits (qcow2 specification, "Bitmaps"):
 * bytes to records and back.
 */
import { alignUp, BlockError, ByteView, type Co, decodeUtf8 } from "@spindle/base";
import type { BlockNode } from "@spindle/block";
import { readPadded } from "./padded-read.ts";

const EXTENSION_BYTES = 24;
export const BITMAPS_MAX = 65_535;
export const DIRECTORY_BYTES_MAX: number = 65_535 * (24 + 1023);
const ENTRY_BYTES = 24;
export const NAME_MAX = 1023;
const TABLE_ENTRIES_MAX = 0x8000000;
export const BITMAP_BYTES_MAX = 0x20000000;
export const GRANULARITY_BITS = { least: 9, most: 31 } as const;
export const FLAG_IN_USE = 1;
export const FLAG_AUTO = 2;
const FLAGS_RESERVED = 0xfffffffc;
const TYPE_DIRTY_TRACKING = 1;

/** Where the header says that the directory is. */
export interface BitmapDirectoryPlace {
  readonly count: number;
  readonly offset: number;
  readonly length: number;
}

/** A bitmap as the directory has it. */
export interface BitmapEntry {
  readonly name: string;
  /** The name as it stands in the file, which need not be UTF-8. */
  readonly nameBytes: Uint8Array;
  /** Where its table stands, and how many entries of 8 bytes it has. */
  readonly offset: number;
  readonly entries: number;
  readonly flags: number;
  readonly granularityBits: number;
}

/** An entry of a bitmap's table: the offset of a cluster of bits, or what stands for clusters of one kind. */
export const ALL_ZEROS = 0;
export const ALL_ONES = 1;

/**
 * @param data what the header extension holds
 * @throws {BlockError} EINVAL when it cannot be true.
 */
export function bitmapDirectoryPlace(data: Uint8Array, clusterSize: number): BitmapDirectoryPlace {
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
): Co<BitmapEntry[]> {
  if (length === 0) throw invalid("Requested bitmap directory size is zero");
  // Beyond the end of the file there are zeros, which are no entry: they need not be in memory.
  const present = Math.max(0, file.length - offset);
  const view = new ByteView(new Uint8Array(Math.min(length, present + ENTRY_BYTES)));
  yield* readPadded(file, offset, view.bytes);
  const found: BitmapEntry[] = [];
  for (let at = 0; at < length; ) {
    if (at + ENTRY_BYTES > length) throw invalid("Broken bitmap directory");
    if (at + ENTRY_BYTES > view.length) throw invalid("Bitmap '' doesn't satisfy the constraints");
    if (found.length === count) throw invalid("More bitmaps found than specified in header extension");
    const nameSize = view.u16be(at + 18);
    const extraSize = view.u32be(at + 20);
    const end = at + alignUp(ENTRY_BYTES + nameSize + extraSize, 8);
    if (end > length) throw invalid("Broken bitmap directory");
    if (extraSize !== 0) throw invalid("Bitmap extra data is not supported");
    const nameAt = at + ENTRY_BYTES;
    const nameBytes = view.bytes.slice(nameAt, nameAt + nameSize);
    const name = decodeUtf8(nameBytes);
    if (!isPossible(view, at, clusterSize, diskSize)) throw invalid(`Bitmap '${name}' doesn't satisfy the constraints`);
    found.push({
      name,
      nameBytes,
      offset: view.u64be(at, "bitmap table offset"),
      entries: view.u32be(at + 8),
      flags: view.u32be(at + 12),
      granularityBits: view.u8(at + 17),
    });
    at = end;
  }
  if (found.length !== count) throw invalid("Less bitmaps found than specified in header extension");
  return found;
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

/** Entries of the table of a bitmap for a disk of this length: one for each cluster of bits. */
export function bitmapTableEntries(size: number, granularity: number, clusterSize: number): number {
  return Math.max(1, Math.ceil(Math.ceil(Math.ceil(size / granularity) / 8) / clusterSize));
}

/** Bytes that a bitmap takes in the directory. */
export function bitmapEntryLength(nameLength: number): number {
  return alignUp(ENTRY_BYTES + nameLength, 8);
}

/** The bytes of a directory, with the entries in this order. */
export function bitmapDirectoryBytes(entries: readonly BitmapEntry[]): Uint8Array {
  const lengthOf = ({ nameBytes }: BitmapEntry): number => bitmapEntryLength(nameBytes.length);
  const view = new ByteView(new Uint8Array(entries.reduce((sum, entry) => sum + lengthOf(entry), 0)));
  let at = 0;
  for (const entry of entries) {
    view.setU64be(at, entry.offset);
    view.setU32be(at + 8, entry.entries);
    view.setU32be(at + 12, entry.flags);
    view.setU8(at + 16, TYPE_DIRTY_TRACKING);
    view.setU8(at + 17, entry.granularityBits);
    view.setU16be(at + 18, entry.nameBytes.length);
    view.bytes.set(entry.nameBytes, at + ENTRY_BYTES);
    at += lengthOf(entry);
  }
  return view.bytes;
}

/** What the header extension says of a directory. */
export function bitmapExtensionBytes({ count, offset, length }: BitmapDirectoryPlace): Uint8Array {
  const view = new ByteView(new Uint8Array(EXTENSION_BYTES));
  view.setU32be(0, count);
  view.setU64be(8, length);
  view.setU64be(16, offset);
  return view.bytes;
}

/**
 * The table of one bitmap.
 * @returns for each cluster of bits where it stands in the file, or that all its bits are alike
 * @throws {BlockError} EINVAL when an entry cannot be true.
 */
export function* readBitmapTable(
  file: BlockNode,
  { name, offset, entries }: BitmapEntry,
  clusterSize: number,
): Co<Float64Array> {
  const bytes = new Uint8Array(entries * 8);
  yield* readPadded(file, offset, bytes);
  const view = new DataView(bytes.buffer);
  const clusters = new Float64Array(entries);
  for (let index = 0; index < entries; index++) {
    const high = view.getUint32(index * 8);
    const low = view.getUint32(index * 8 + 4);
    const hostOffset = (high & 0x00ffffff) * 2 ** 32 + ((low & 0xfffffe00) >>> 0);
    const hasReserved = (high & 0xff000000) !== 0 || (low & 0x1fe) !== 0;
    if (hasReserved || (hostOffset !== 0 && ((low & 1) !== 0 || hostOffset % clusterSize !== 0)))
      throw invalid(`Could not read bitmap_table table from image for bitmap '${name}': Invalid argument`);
    clusters[index] = hostOffset === 0 ? low & 1 : hostOffset;
  }
  return clusters;
}

/** The bytes of such a table. */
export function bitmapTableBytes(clusters: Float64Array): Uint8Array {
  const view = new ByteView(new Uint8Array(clusters.length * 8));
  for (const [index, cluster] of clusters.entries()) view.setU64be(index * 8, cluster);
  return view.bytes;
}

function invalid(message: string): BlockError {
  return new BlockError("EINVAL", message);
}
