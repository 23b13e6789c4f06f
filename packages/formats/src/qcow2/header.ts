/**
 * The qcow2 header and its extensions: bytes to a checked record and back, without I/O. Sources: the qcow2 specification,
 * sections "Header" and "Header extensions"; limits as QEMU has them.
 */
import { BlockError, ByteView, decodeUtf8 } from "@spindle/base";

export const QCOW2_MAGIC = 0x514649fb;

export const QCOW2_INCOMPAT_DIRTY = 1n;
export const QCOW2_INCOMPAT_CORRUPT = 2n;
export const QCOW2_INCOMPAT_DATA_FILE = 4n;
export const QCOW2_INCOMPAT_COMPRESSION = 8n;
export const QCOW2_INCOMPAT_EXTENDED_L2 = 16n;
export const QCOW2_COMPAT_LAZY_REFCOUNTS = 1n;
export const QCOW2_AUTOCLEAR_BITMAPS = 1n;
export const QCOW2_AUTOCLEAR_RAW_DATA = 2n;

const KNOWN_INCOMPATIBLE =
  QCOW2_INCOMPAT_DIRTY |
  QCOW2_INCOMPAT_CORRUPT |
  QCOW2_INCOMPAT_DATA_FILE |
  QCOW2_INCOMPAT_COMPRESSION |
  QCOW2_INCOMPAT_EXTENDED_L2;

export const EXTENSION_END = 0;
export const EXTENSION_BACKING_FORMAT = 0xe2792aca;
export const EXTENSION_FEATURE_NAMES = 0x6803f857;
export const EXTENSION_BITMAPS = 0x23852875;
export const EXTENSION_CRYPTO = 0x0537be77;

const CRYPT_METHOD_LUKS = 2;
const CRYPTO_EXTENSION_BYTES = 16;
/** The keys of the longest header that there can be take less than 3 MiB. */
const CRYPTO_HEADER_BYTES_MAX = 32 * 1024 * 1024;
export const EXTENSION_DATA_FILE = 0x44415441;

/** The 32 subclusters of extended L2 entries are of 512 bytes at least. */
export const EXTENDED_CLUSTER_BITS_MIN = 14;

const V2_HEADER_BYTES = 72;
const V3_HEADER_BYTES = 104;
const L1_BYTES_MAX = 32 * 1024 * 1024;
const REFCOUNT_TABLE_BYTES_MAX = 8 * 1024 * 1024;
export const SNAPSHOTS_MAX = 65_536;
const BACKING_NAME_MAX = 1023;

export type CompressionType = "zlib" | "zstd";

export interface FileRange {
  readonly offset: number;
  readonly length: number;
}

export interface Qcow2Header {
  readonly version: 2 | 3;
  readonly backingFile: string | null;
  readonly backingFormat: string | null;
  readonly clusterBits: number;
  readonly size: number;
  readonly l1Entries: number;
  readonly l1Offset: number;
  readonly refcountTableOffset: number;
  readonly refcountTableClusters: number;
  readonly snapshotCount: number;
  readonly snapshotsOffset: number;
  readonly incompatible: bigint;
  readonly compatible: bigint;
  readonly autoclear: bigint;
  /** Refcounts are 2^refcountOrder bits wide. */
  readonly refcountOrder: number;
  readonly headerLength: number;
  readonly compression: CompressionType;
  /** The name of the file in which the data stands; null when the header tells none. */
  readonly dataFile: string | null;
  /** What the header says of persistent bitmaps, whether it still holds or not; null when it says nothing. */
  readonly bitmapExtension: Uint8Array | null;
  /** How the clusters' data is encrypted: 0 for not at all, 1 for AES, 2 for LUKS. */
  readonly cryptMethod: number;
  /** Where the LUKS header and its keys stand in the file, in bytes. */
  readonly cryptoHeader: FileRange | null;
  /** There are extensions of kinds that are not known, which may refer to clusters of their own. */
  readonly foreignExtensions: boolean;
}

/** Whether the data stands in a file of its own, where each byte of the disk has the offset that it has in the disk. */
export function hasDataFile({ incompatible }: Pick<Qcow2Header, "incompatible">): boolean {
  return (incompatible & QCOW2_INCOMPAT_DATA_FILE) !== 0n;
}

/** Whether the data file alone shows what the disk shows, as a raw image. */
export function isDataFileRaw({ autoclear }: Pick<Qcow2Header, "autoclear">): boolean {
  return (autoclear & QCOW2_AUTOCLEAR_RAW_DATA) !== 0n;
}

/** Bytes of an entry of an L2 table. */
export function l2EntryBytes({ incompatible }: Pick<Qcow2Header, "incompatible">): 8 | 16 {
  return (incompatible & QCOW2_INCOMPAT_EXTENDED_L2) === 0n ? 8 : 16;
}

/**
 * @param bytes the first cluster of the file, or all of a shorter file
 * @param forCheck an image without a refcount table, or with too many snapshots, is read: a repair can mend it
 * @throws {BlockError} EINVAL when it is no valid header, ENOTSUP when it asks for what is not supported, by name.
 */
export function parseHeader(bytes: Uint8Array, forCheck = false): Qcow2Header {
  const view = new ByteView(bytes);
  if (bytes.length < V2_HEADER_BYTES || view.u32be(0) !== QCOW2_MAGIC) throw invalid("Image is not in qcow2 format");
  const version = view.u32be(4);
  if (version !== 2 && version !== 3) throw unsupported(`Unsupported qcow2 version ${version}`);
  const clusterBits = view.u32be(20);
  if (clusterBits < 9 || clusterBits > 21) throw invalid(`Unsupported cluster size: 2^${clusterBits}`);
  const third = version === 3 ? parseThird(view, clusterBits) : SECOND;
  const extensions = parseExtensions(view, third.headerLength, clusterBits);
  checkFeatures(third.incompatible, extensions.featureNames);
  if (l2EntryBytes(third) === 16 && clusterBits < EXTENDED_CLUSTER_BITS_MIN)
    throw invalid(`Unsupported subcluster size: ${2 ** clusterBits / 32}`);
  if (isDataFileRaw(third) && !hasDataFile(third)) throw invalid("data-file-raw requires a data file");
  // No L1 table reaches so far.
  if (view.bigU64be(24) > BigInt(Number.MAX_SAFE_INTEGER)) throw new BlockError("EFBIG", "Image is too big");
  const size = view.u64be(24, "disk size");
  const header = {
    version,
    backingFile: parseBackingFile(view, clusterBits),
    backingFormat: extensions.backingFormat,
    clusterBits,
    size,
    l1Entries: view.u32be(36),
    l1Offset: view.u64be(40, "L1 table offset"),
    refcountTableOffset: view.u64be(48, "refcount table offset"),
    refcountTableClusters: view.u32be(56),
    snapshotCount: view.u32be(60),
    snapshotsOffset: parseSnapshotsOffset(view),
    dataFile: hasDataFile(third) ? extensions.dataFile : null,
    bitmapExtension: extensions.bitmaps,
    cryptMethod: parseCryptMethod(view, extensions.cryptoHeader),
    cryptoHeader: extensions.cryptoHeader,
    foreignExtensions: extensions.foreign,
    ...third,
  } as const;
  checkTables(header, forCheck);
  return header;
}

/** Where there are no snapshots, the offset of their table means nothing. */
function parseSnapshotsOffset(view: ByteView): number {
  if (view.u32be(60) > 0) return view.u64be(64, "snapshot table offset");
  const offset = view.bigU64be(64);
  const isBeyond = offset >= 2n ** 53n && offset < 2n ** 63n;
  return isBeyond && offset % 512n === 0n ? 0 : view.u64be(64, "snapshot table offset");
}

function parseCryptMethod(view: ByteView, cryptoHeader: FileRange | null): number {
  const method = view.u32be(32);
  if (method > CRYPT_METHOD_LUKS) throw invalid(`Unsupported encryption method ${method}`);
  if (method === CRYPT_METHOD_LUKS && cryptoHeader === null)
    throw invalid(`Missing CRYPTO header for crypt method ${method}`);
  return method;
}

type ThirdFields = Pick<
  Qcow2Header,
  "incompatible" | "compatible" | "autoclear" | "refcountOrder" | "headerLength" | "compression"
>;

/** What a version 2 header means by leaving it out. */
const SECOND: ThirdFields = {
  incompatible: 0n,
  compatible: 0n,
  autoclear: 0n,
  refcountOrder: 4,
  headerLength: V2_HEADER_BYTES,
  compression: "zlib",
};

function parseThird(view: ByteView, clusterBits: number): ThirdFields {
  if (view.length < V3_HEADER_BYTES) throw invalid("qcow2 header is truncated");
  const headerLength = view.u32be(100);
  if (headerLength < V3_HEADER_BYTES) throw invalid("qcow2 header too short");
  if (headerLength > 2 ** clusterBits || headerLength > view.length) throw invalid("qcow2 header exceeds cluster size");
  const refcountOrder = view.u32be(96);
  if (refcountOrder > 6) throw invalid("Reference count entry width too large; may not exceed 64 bits");
  const incompatible = view.bigU64be(72);
  const compressionNumber = headerLength > V3_HEADER_BYTES ? view.u8(104) : 0;
  if (compressionNumber > 1) throw unsupported(`qcow2: unknown compression type: ${compressionNumber}`);
  const announced = (incompatible & QCOW2_INCOMPAT_COMPRESSION) !== 0n;
  if (announced !== (compressionNumber !== 0))
    throw invalid("qcow2: Compression type incompatible feature bit is wrong");
  return {
    incompatible,
    compatible: view.bigU64be(80),
    autoclear: view.bigU64be(88),
    refcountOrder,
    headerLength,
    compression: compressionNumber === 0 ? "zlib" : "zstd",
  };
}

interface Extensions {
  readonly backingFormat: string | null;
  readonly featureNames: ReadonlyMap<number, string>;
  readonly bitmaps: Uint8Array | null;
  readonly cryptoHeader: FileRange | null;
  readonly dataFile: string | null;
  readonly foreign: boolean;
  readonly end: number;
}

function parseExtensions(view: ByteView, start: number, clusterBits: number): Extensions {
  const nameOffset = view.u64be(8, "backing file name offset");
  const limit = Math.min(view.length, 2 ** clusterBits, nameOffset === 0 ? Number.POSITIVE_INFINITY : nameOffset);
  let backingFormat: string | null = null;
  let featureNames: ReadonlyMap<number, string> = new Map();
  let bitmaps: Uint8Array | null = null;
  let cryptoHeader: FileRange | null = null;
  let dataFile: string | null = null;
  let foreign = false;
  let offset = start;
  while (offset + 8 <= limit) {
    const type = view.u32be(offset);
    const length = view.u32be(offset + 4);
    offset += 8;
    if (type === EXTENSION_END) break;
    if (length > limit - offset) throw invalid("qcow2 header extension is too large");
    const data = view.bytes.subarray(offset, offset + length);
    if (type === EXTENSION_BACKING_FORMAT) {
      if (length > 15) throw invalid("ERROR: ext_backing_format: len too large");
      backingFormat = decodeUtf8(data);
    } else if (type === EXTENSION_FEATURE_NAMES) featureNames = parseFeatureNames(data);
    else if (type === EXTENSION_CRYPTO) cryptoHeader = parseCryptoExtension(data, view.u32be(32), clusterBits);
    else if (type === EXTENSION_BITMAPS) bitmaps = data.slice();
    else if (type === EXTENSION_DATA_FILE) dataFile = decodeUtf8(data);
    else foreign = true;
    offset += Math.ceil(length / 8) * 8;
  }
  return { backingFormat, featureNames, bitmaps, dataFile, cryptoHeader, foreign, end: offset };
}

function parseCryptoExtension(data: Uint8Array, method: number, clusterBits: number): FileRange {
  if (method !== CRYPT_METHOD_LUKS) throw invalid("CRYPTO header extension only expected with LUKS encryption method");
  if (data.length !== CRYPTO_EXTENSION_BYTES)
    throw invalid(`CRYPTO header extension size ${data.length}, but expected size ${CRYPTO_EXTENSION_BYTES}`);
  const view = new ByteView(data);
  const offset = view.u64be(0, "encryption header offset");
  const length = view.u64be(8, "encryption header length");
  if (offset % 2 ** clusterBits !== 0)
    throw invalid(`Encryption header offset '${offset}' is not a multiple of cluster size '${2 ** clusterBits}'`);
  if (length > CRYPTO_HEADER_BYTES_MAX) throw new BlockError("EFBIG", "Encryption header too large");
  return { offset, length };
}

/** Names of incompatible bits, as the image tells them for programs that do not know the bits. */
function parseFeatureNames(data: Uint8Array): ReadonlyMap<number, string> {
  const names = new Map<number, string>();
  // What is missing of the last entry are zeros.
  for (let at = 0; at + 2 < data.length; at += 48) {
    if (data[at] !== 0) continue;
    const name = data.subarray(at + 2, at + 48);
    const length = name.indexOf(0);
    names.set(data[at + 1] as number, decodeUtf8(length < 0 ? name : name.subarray(0, length)));
  }
  return names;
}

function checkFeatures(incompatible: bigint, names: ReadonlyMap<number, string>): void {
  let unnamed = incompatible & ~KNOWN_INCOMPATIBLE;
  if (unnamed === 0n) return;
  const features: string[] = [];
  for (const [bit, name] of names) {
    const mask = 1n << BigInt(bit % 64);
    if ((unnamed & mask) === 0n) continue;
    features.push(name);
    unnamed &= ~mask;
  }
  if (unnamed !== 0n) features.push(`Unknown incompatible feature: ${unnamed.toString(16)}`);
  throw unsupported(`Unsupported qcow2 feature(s): ${features.join(", ")}`);
}

function parseBackingFile(view: ByteView, clusterBits: number): string | null {
  const offset = view.u64be(8, "backing file name offset");
  if (offset === 0) return null;
  const length = view.u32be(16);
  if (length > BACKING_NAME_MAX || offset + length > 2 ** clusterBits || offset + length > view.length)
    throw invalid("Backing file name too long");
  if (length === 0) return null;
  return decodeUtf8(view.bytes.subarray(offset, offset + length));
}

type Tables = Omit<Qcow2Header, "backingFile" | "backingFormat">;

function checkTables(header: Tables, forCheck: boolean): void {
  const clusterSize = 2 ** header.clusterBits;
  const table = (name: string, offset: number, entryBytes: number, entries: number, bytesMax: number): void => {
    if (entries * entryBytes > bytesMax) throw new BlockError("EFBIG", `${name} too large`);
    if (offset % clusterSize !== 0 || offset >= 2 ** 53 - bytesMax)
      throw invalid(`Invalid ${name.toLowerCase()} offset`);
  };
  const { refcountTableClusters, refcountTableOffset, l1Entries, l1Offset } = header;
  table("Reference count table", refcountTableOffset, clusterSize, refcountTableClusters, REFCOUNT_TABLE_BYTES_MAX);
  if (!forCheck) {
    if (refcountTableClusters === 0) throw invalid("Image does not contain a reference count table");
    if (refcountTableOffset === 0) throw invalid("Invalid reference count table offset");
    table("Snapshot table", header.snapshotsOffset, 40, header.snapshotCount, SNAPSHOTS_MAX * 40);
  }
  table("Active L1 table", l1Offset, 8, l1Entries, L1_BYTES_MAX);
  const needed = Math.ceil(header.size / (clusterSize * (clusterSize / l2EntryBytes(header))));
  if (l1Entries < needed) throw invalid("L1 table is too small");
  if (l1Entries > 0 && l1Offset === 0) throw invalid("Invalid L1 table offset");
}

function invalid(message: string): BlockError {
  return new BlockError("EINVAL", message);
}

function unsupported(message: string): BlockError {
  return new BlockError("ENOTSUP", message);
}
