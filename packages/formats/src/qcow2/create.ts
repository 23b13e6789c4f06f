/**
 * Lays out an empty qcow2 image as QEMU does: header, refcount table, refcount blocks and L1 table, one after the other
 * from cluster 0 on.
 */
import { alignUp, BlockError, ByteView, type Co, encodeUtf8, isPowerOfTwo, parseSize } from "@spindle/base";
import { type BlockNode, type CreateOptions, type Environment, IoVector, type Preallocation } from "@spindle/block";
import { checkFileOptions, FILE_CREATE_OPTIONS } from "../file-create-options.ts";
import { createEncryption, ENCRYPTION_OPTIONS, type EncryptionPlan, planEncryption } from "./encryption-options.ts";
import { featureNamesExtension } from "./feature-names.ts";
import {
  type CompressionType,
  EXTENDED_CLUSTER_BITS_MIN,
  EXTENSION_CRYPTO,
  l2EntryBytes,
  QCOW2_AUTOCLEAR_RAW_DATA,
  QCOW2_COMPAT_LAZY_REFCOUNTS,
  QCOW2_INCOMPAT_COMPRESSION,
  QCOW2_INCOMPAT_DATA_FILE,
  QCOW2_INCOMPAT_EXTENDED_L2,
  QCOW2_MAGIC,
} from "./header.ts";
import {
  backingFormatExtension,
  dataFileExtension,
  extensionsLength,
  PREFIX_BYTES,
  writeExtensions,
} from "./header-extensions.ts";

const L1_BYTES_MAX = 32 * 1024 * 1024;
const HEADER_BYTES = { 2: 72, 3: 112 } as const;

interface Features {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  readonly clusterSize: number;
  readonly refcountOrder: number;
  readonly compression: CompressionType;
  readonly lazyRefcounts: boolean;
  readonly incompatible: bigint;
  readonly encryption: EncryptionPlan;
  readonly autoclear: bigint;
}

interface Layout extends Features {
  readonly size: number;
  readonly tableClusters: number;
  readonly blocks: number;
  readonly l1Entries: number;
  /** Of the LUKS header, which stands behind all else. */
  readonly cryptoClusters: number;
}

const PREALLOCATIONS: readonly Preallocation[] = ["off", "metadata", "falloc", "full"];

/** @throws {BlockError} EINVAL or ENOTSUP when an option cannot be met, EFBIG when the disk is too large for the clusters. */
export function* createQcow2(file: BlockNode, options: CreateOptions, environment: Environment): Co<void> {
  const layout = planLayout(options);
  const cryptoHead = yield* createEncryption(layout.encryption, options.options, environment);
  const { clusterSize, tableClusters, blocks, l1Entries } = layout;
  yield* file.write(0, IoVector.of(headerCluster(layout, options)));
  const table = new ByteView(new Uint8Array(tableClusters * clusterSize));
  for (let block = 0; block < blocks; block++) table.setU64be(block * 8, (1 + tableClusters + block) * clusterSize);
  yield* file.write(clusterSize, IoVector.of(table.bytes));
  yield* file.write((1 + tableClusters) * clusterSize, IoVector.of(refcountBlocks(layout)));
  const l1Offset = (1 + tableClusters + blocks) * clusterSize;
  if (l1Entries > 0) yield* file.write(l1Offset, IoVector.of(new Uint8Array(l1Entries * 8)));
  if (layout.cryptoClusters > 0) {
    const cryptoOffset = cryptoHeaderOffset(layout);
    yield* file.truncate(cryptoOffset + layout.cryptoClusters * clusterSize);
    yield* file.write(cryptoOffset, IoVector.of(cryptoHead));
  }
  yield* file.flush();
}

function cryptoHeaderOffset({ clusterSize, tableClusters, blocks, l1Entries }: Layout): number {
  return (1 + tableClusters + blocks + Math.ceil((l1Entries * 8) / clusterSize)) * clusterSize;
}

export function planLayout(request: CreateOptions): Layout {
  const features = parseFeatures(request);
  const { clusterSize, refcountOrder } = features;
  const size = alignUp(request.size, 512);
  const l1Entries = Math.ceil(size / (clusterSize * (clusterSize / l2EntryBytes(features))));
  if (l1Entries * 8 > L1_BYTES_MAX)
    throw new BlockError(
      "EFBIG",
      "The image size is too large for file format 'qcow2' (try using a larger cluster size)",
    );
  const perBlock = (clusterSize * 8) / 2 ** refcountOrder;
  const l1Clusters = Math.ceil((l1Entries * 8) / clusterSize);
  let blocks = 1;
  let tableClusters = 1;
  const cryptoClusters = Math.ceil(features.encryption.headerBytes / clusterSize);
  while (blocks * perBlock < 1 + tableClusters + blocks + l1Clusters + cryptoClusters) {
    blocks += 1;
    tableClusters = Math.ceil((blocks * 8) / clusterSize);
  }
  return { ...features, size, tableClusters, blocks, l1Entries, cryptoClusters };
}

function parseFeatures({ options, backing }: CreateOptions): Features {
  checkKnown(options);
  checkFileOptions(options);
  const extended = parseSwitch("extended_l2", options["extended_l2"] ?? "off");
  const { hasData, isRaw } = parseDataFile(options, backing !== undefined);
  if (parsePreallocation(options) !== "off" && backing !== undefined && !extended)
    throw new BlockError(
      "EINVAL",
      "Backing file and preallocation can only be used at the same time if extended_l2 is enabled",
    );
  const clusterBits = parseClusterBits(options["cluster_size"] ?? "64k", extended);
  const version = parseCompat(options["compat"] ?? "1.1");
  const refcountOrder = parseRefcountOrder(options["refcount_bits"] ?? "16", version);
  const compression = parseCompression(options["compression_type"] ?? "zlib", version);
  const lazyRefcounts = parseSwitch("lazy_refcounts", options["lazy_refcounts"] ?? "off");
  if (lazyRefcounts && version < 3) throw needsThird("Lazy refcounts only supported");
  if (extended && version < 3) throw needsThird("Extended L2 entries are only supported");
  if (hasData && version < 3) throw needsThird("External data files are only supported");
  let incompatible = hasData ? QCOW2_INCOMPAT_DATA_FILE : 0n;
  if (compression === "zstd") incompatible |= QCOW2_INCOMPAT_COMPRESSION;
  if (extended) incompatible |= QCOW2_INCOMPAT_EXTENDED_L2;
  const encryption = planEncryption(options);
  const autoclear = isRaw ? QCOW2_AUTOCLEAR_RAW_DATA : 0n;
  const clusterSize = 2 ** clusterBits;
  return {
    version,
    clusterBits,
    clusterSize,
    refcountOrder,
    compression,
    lazyRefcounts,
    incompatible,
    autoclear,
    encryption,
  };
}

function parseDataFile(
  { data_file, data_file_raw = "off" }: CreateOptions["options"],
  hasBacking: boolean,
): { readonly hasData: boolean; readonly isRaw: boolean } {
  const hasData = data_file !== undefined;
  const isRaw = parseSwitch("data_file_raw", data_file_raw);
  if (isRaw && !hasData) throw new BlockError("EINVAL", "data-file-raw requires data-file");
  if (isRaw && hasBacking)
    throw new BlockError("EINVAL", "Backing file and data-file-raw cannot be used at the same time");
  return { hasData, isRaw };
}

function parseRefcountOrder(text: string, version: number): number {
  const refcountBits = Number(text);
  if (!isPowerOfTwo(refcountBits) || refcountBits > 64)
    throw new BlockError("EINVAL", "Refcount width must be a power of two and may not exceed 64 bits");
  if (version < 3 && refcountBits !== 16)
    throw new BlockError(
      "EINVAL",
      "Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)",
    );
  return Math.log2(refcountBits);
}

function needsThird(what: string): BlockError {
  return new BlockError("EINVAL", `${what} with compatibility level 1.1 and above (use version=v3 or greater)`);
}

function parseClusterBits(text: string, extended: boolean): number {
  const clusterSize = parseSize(text);
  if (!isPowerOfTwo(clusterSize) || clusterSize < 512 || clusterSize > 2 * 1024 * 1024)
    throw new BlockError("EINVAL", "Cluster size must be a power of two between 512 and 2048k");
  const least = 2 ** EXTENDED_CLUSTER_BITS_MIN;
  if (extended && clusterSize < least)
    throw new BlockError(
      "EINVAL",
      `Extended L2 entries are only supported with cluster sizes of at least ${least} bytes`,
    );
  return Math.log2(clusterSize);
}

const UNDERSTOOD = [
  "cluster_size",
  "compat",
  "refcount_bits",
  "compression_type",
  "lazy_refcounts",
  "preallocation",
  "extended_l2",
  "data_file",
  "data_file_raw",
];

export const QCOW2_CREATE_OPTIONS: readonly string[] = [...UNDERSTOOD, ...ENCRYPTION_OPTIONS, ...FILE_CREATE_OPTIONS];

function checkKnown(options: Readonly<Record<string, string>>): void {
  for (const key of Object.keys(options)) {
    if ([...UNDERSTOOD, ...ENCRYPTION_OPTIONS, ...FILE_CREATE_OPTIONS].includes(key)) continue;
    throw new BlockError("EINVAL", `Invalid parameter '${key}'`);
  }
}

/** @throws {BlockError} EINVAL with QEMU's text for a mode that there is not. */
function parsePreallocation({ preallocation = "off" }: CreateOptions["options"]): Preallocation {
  const mode = PREALLOCATIONS.find((one) => one === preallocation);
  if (mode !== undefined) return mode;
  throw new BlockError("EINVAL", `Parameter 'preallocation' does not accept value '${preallocation}'`);
}

/** What is done for the clusters of a new image: a raw data file shows what it holds, so that none may be missing. */
export function preallocationOf(options: CreateOptions["options"]): Preallocation {
  const mode = parsePreallocation(options);
  const isRaw = parseSwitch("data_file_raw", options["data_file_raw"] ?? "off");
  return isRaw && mode === "off" ? "metadata" : mode;
}

export function parseSwitch(name: string, text: string): boolean {
  if (text === "on" || text === "yes" || text === "true" || text === "y") return true;
  if (text === "off" || text === "no" || text === "false" || text === "n") return false;
  throw new BlockError("EINVAL", `Parameter '${name}' expects 'on' or 'off'`);
}

function parseCompat(text: string): 2 | 3 {
  if (text === "0.10" || text === "v2") return 2;
  if (text === "1.1" || text === "v3") return 3;
  throw new BlockError("EINVAL", `Parameter 'version' does not accept value '${text}'`);
}

function parseCompression(text: string, version: number): CompressionType {
  if (text !== "zlib" && text !== "zstd")
    throw new BlockError("EINVAL", `Parameter 'compression-type' does not accept value '${text}'`);
  if (text === "zstd" && version < 3)
    throw new BlockError(
      "EINVAL",
      "Non-zlib compression type is only supported with compatibility level 1.1 and above (use version=v3 or greater)",
    );
  return text;
}

function headerCluster(layout: Layout, options: CreateOptions): Uint8Array {
  const { version, clusterSize, tableClusters, blocks, l1Entries } = layout;
  const view = new ByteView(new Uint8Array(clusterSize));
  view.setU32be(0, QCOW2_MAGIC);
  view.setU32be(4, version);
  view.setU32be(20, layout.clusterBits);
  view.setU64be(24, layout.size);
  view.setU32be(32, layout.encryption.cryptMethod);
  view.setU32be(36, l1Entries);
  view.setU64be(40, l1Entries === 0 ? 0 : (1 + tableClusters + blocks) * clusterSize);
  view.setU64be(48, clusterSize);
  view.setU32be(56, tableClusters);
  if (version === 3) {
    view.setBigU64be(72, layout.incompatible);
    if (layout.lazyRefcounts) view.setBigU64be(80, QCOW2_COMPAT_LAZY_REFCOUNTS);
    view.setBigU64be(88, layout.autoclear);
    view.setU32be(96, layout.refcountOrder);
    view.setU32be(100, HEADER_BYTES[3]);
    view.setU8(104, layout.compression === "zstd" ? 1 : 0);
  }
  writeBehindHeader(view, layout, options);
  return view.bytes;
}

/** The extensions behind the header, and behind them the backing file's name. */
function writeBehindHeader(view: ByteView, layout: Layout, { backing, options }: CreateOptions): void {
  const { version, encryption, cryptoClusters } = layout;
  const format = backing?.format ?? null;
  const list = format === null ? [] : [backingFormatExtension(format)];
  const name = options["data_file"];
  if (name !== undefined) list.push(dataFileExtension(name));
  const start = HEADER_BYTES[version];
  if (cryptoClusters > 0) {
    const place = new ByteView(new Uint8Array(16));
    place.setU64be(0, cryptoHeaderOffset(layout));
    place.setU64be(8, encryption.headerBytes);
    list.push({ type: EXTENSION_CRYPTO, data: place.bytes });
  }
  if (version === 3) list.push(...featureNamesExtension(view.length - start - extensionsLength(list) + PREFIX_BYTES));
  writeExtensions(view, start, list);
  if (backing === undefined) return;
  const at = start + extensionsLength(list);
  const backingName = encodeUtf8(backing.filename);
  if (backingName.length > 1023 || at + backingName.length > view.length)
    throw new BlockError("EINVAL", `Backing file name '${backing.filename}' is too long`);
  view.setU64be(8, at);
  view.setU32be(16, backingName.length);
  view.bytes.set(backingName, at);
}

function refcountBlocks(layout: Layout): Uint8Array {
  const { clusterSize, refcountOrder, blocks, cryptoClusters } = layout;
  const bytes = new Uint8Array(blocks * clusterSize);
  const used = cryptoHeaderOffset(layout) / clusterSize + cryptoClusters;
  const bits = 2 ** refcountOrder;
  for (let index = 0; index < used; index++) {
    // Each count is 1; wide entries are big-endian, narrow ones fill a byte from its low end.
    if (bits >= 8) bytes[((index + 1) * bits) / 8 - 1] = 1;
    else
      bytes[Math.floor((index * bits) / 8)] =
        (bytes[Math.floor((index * bits) / 8)] as number) | (1 << ((index * bits) % 8));
  }
  return bytes;
}
