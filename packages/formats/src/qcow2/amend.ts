/**
 * Changes what an image was created with, in QEMU's order: a newer version first, because others may need it; then the
 * width of counts, lazy refcounts and the length; an older version last. Each step is durable before the next begins.
 */
import { BlockError, ByteView, type Co, isPowerOfTwo, parseSize } from "@spindle/base";
import { IoVector } from "@spindle/block";
import { LUKS_AMEND_OPTIONS } from "../luks/amend.ts";
import { parseSwitch } from "./create.ts";
import { CRYPT_LUKS, type Encryption } from "./encryption.ts";
import { EntryLayout } from "./entry-layout.ts";
import { expandZeros } from "./expand-zeros.ts";
import { featureNamesExtension } from "./feature-names.ts";
import {
  EXTENSION_BACKING_FORMAT,
  EXTENSION_BITMAPS,
  EXTENSION_DATA_FILE,
  EXTENSION_FEATURE_NAMES,
  hasDataFile,
  isDataFileRaw,
  QCOW2_AUTOCLEAR_RAW_DATA,
  QCOW2_COMPAT_LAZY_REFCOUNTS,
  QCOW2_INCOMPAT_DIRTY,
  type Qcow2Header,
} from "./header.ts";
import { dataFileExtension, extensionsLength, PREFIX_BYTES } from "./header-extensions.ts";
import type { PersistentBitmaps } from "./persistent-bitmaps.ts";
import { readHead } from "./read-header.ts";
import { changeRefcountWidth } from "./refcount-width.ts";
import { rewriteHead } from "./rewrite-head.ts";
import type { Qcow2Snapshots, SnapshotParts } from "./snapshot.ts";

export const QCOW2_AMEND_OPTIONS: readonly string[] = [
  "backing_file",
  "backing_fmt",
  "compat",
  "data_file",
  "data_file_raw",
  ...LUKS_AMEND_OPTIONS.map((key) => `encrypt.${key}`),
  "lazy_refcounts",
  "refcount_bits",
  "size",
];

/** Where the header holds its version, the features that are incompatible and, behind them, compatible; and its length. */
const HEADER_VERSION = 4;
const HEADER_INCOMPATIBLE = 72;
const HEADER_AUTOCLEAR = 88;
const HEADER_ORDER = 96;
const HEADER_LENGTH = 100;
const HEADER_BYTES = { 2: 72, 3: 112 } as const;
const ORDER_OF_VERSION_2 = 4;

export interface AmendParts extends SnapshotParts {
  readonly snapshots: Qcow2Snapshots;
  readonly persistent: PersistentBitmaps;
  /** Keys may be lost. */
  readonly force: boolean;
  readonly resize: (length: number) => Co<void>;
}

interface Wanted {
  readonly version: 2 | 3;
  readonly refcountOrder: number;
  readonly lazy: boolean;
  readonly size: number | undefined;
  readonly changesKeys: boolean;
}

/**
 * @param tell hears how much is done, 0 to 1
 * @throws {BlockError} EINVAL or ENOTSUP in QEMU's words for what cannot be; steps before it have been made.
 */
export function* amendImage(
  parts: AmendParts,
  options: Readonly<Record<string, string>>,
  tell: (done: number) => void,
): Co<void> {
  const { state, writeBack } = parts;
  const wanted = parseWanted(parts, options);
  const { version, refcountOrder } = state.header;
  const steps =
    Number(wanted.version !== version) + Number(wanted.refcountOrder !== refcountOrder) + Number(wanted.changesKeys);
  let step = 0;
  const tellStep = (done: number): void => tell((step + done) / steps);
  yield* writeBack.settle();
  if (wanted.version > version) {
    yield* upgrade(parts);
    tellStep(1);
    step += 1;
  }
  if (wanted.changesKeys) {
    const { environment, file, encryption, header } = state;
    yield* (encryption as Encryption).amend(file, header, options, { environment, force: parts.force });
    tellStep(1);
    step += 1;
  }
  if (wanted.refcountOrder !== refcountOrder) {
    if (wanted.refcountOrder !== ORDER_OF_VERSION_2)
      checkVersion3(wanted.version, "Refcount widths other than 16 bits require compatibility level 1.1 or above");
    yield* changeRefcountWidth(state, writeBack, wanted.refcountOrder, tellStep);
    step += 1;
  }
  checkBackingFile(parts, options);
  yield* setDataFile(parts, options);
  yield* setLazy(parts, wanted);
  if (wanted.size !== undefined) yield* parts.resize(wanted.size);
  if (wanted.version < version) yield* downgrade(parts, tellStep);
}

function parseWanted({ state }: AmendParts, options: Readonly<Record<string, string>>): Wanted {
  const { header } = state;
  const { compat, refcount_bits, lazy_refcounts, size } = options;
  checkExtras(header, options);
  const isLazy = (header.compatible & QCOW2_COMPAT_LAZY_REFCOUNTS) !== 0n;
  return {
    version: compat === undefined ? header.version : parseVersion(compat),
    refcountOrder: refcount_bits === undefined ? header.refcountOrder : parseOrder(refcount_bits),
    lazy: lazy_refcounts === undefined ? isLazy : parseSwitch("lazy_refcounts", lazy_refcounts),
    size: size === undefined || parseLength(size) === 0 ? undefined : parseLength(size),
    changesKeys: Object.keys(options).some((key) => key.startsWith("encrypt.")),
  };
}

function checkExtras(
  header: Qcow2Header,
  { data_file, data_file_raw, ...options }: Readonly<Record<string, string>>,
): void {
  if (data_file !== undefined && !hasDataFile(header))
    throw new BlockError("EINVAL", "data-file can only be set for images that use an external data file");
  if (data_file_raw !== undefined && parseSwitch("data_file_raw", data_file_raw) && !isDataFileRaw(header))
    throw new BlockError("EINVAL", "data-file-raw cannot be set on existing images");
  if (!Object.keys(options).some((key) => key.startsWith("encrypt."))) return;
  if (header.cryptMethod === 0)
    throw new BlockError("EINVAL", "Can't amend encryption options - encryption not present");
  if (header.cryptMethod !== CRYPT_LUKS) throw new BlockError("EINVAL", "Only LUKS encryption options can be amended");
}

function parseVersion(text: string): 2 | 3 {
  if (text === "0.10" || text === "v2") return 2;
  if (text === "1.1" || text === "v3") return 3;
  throw new BlockError("EINVAL", `Unknown compatibility level ${text}`);
}

function parseOrder(text: string): number {
  if (!/^\d+$/.test(text)) throw new BlockError("EINVAL", "Parameter 'refcount_bits' expects a number");
  const bits = Number(text);
  if (bits >= 1 && bits <= 64 && isPowerOfTwo(bits)) return Math.log2(bits);
  throw new BlockError("EINVAL", "Refcount width must be a power of two and may not exceed 64 bits");
}

function parseLength(text: string): number {
  try {
    return parseSize(text);
  } catch {
    throw new BlockError("EINVAL", "Parameter 'size' expects a non-negative number below 2^64", {
      hint: "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively.",
    });
  }
}

function checkVersion3(version: number, what: string): void {
  if (version >= 3) return;
  throw new BlockError("EINVAL", `${what} (use compat=1.1 or greater)`);
}

function checkBackingFile({ state }: AmendParts, options: Readonly<Record<string, string>>): void {
  const { backing_file, backing_fmt } = options;
  if (backing_file === undefined && backing_fmt === undefined) return;
  const { backingFile, backingFormat } = state.header;
  if ((backing_file ?? null) === backingFile && (backing_fmt ?? null) === backingFormat) return;
  throw new BlockError("EINVAL", "Cannot amend the backing file", { hint: "You can use 'qemu-img rebase' instead." });
}

/** Names another data file, or none; and lets it be other than what the disk shows. */
function* setDataFile(
  { state }: AmendParts,
  { data_file, data_file_raw = "on" }: Readonly<Record<string, string>>,
): Co<void> {
  const staysRaw = parseSwitch("data_file_raw", data_file_raw);
  if (data_file === undefined && (staysRaw || !isDataFileRaw(state.header))) return;
  const { view, extensions } = yield* readHead(state.file, state.header);
  const fields = new ByteView(view.bytes.slice(0, state.header.headerLength));
  const { autoclear, dataFile } = state.header;
  fields.setBigU64be(HEADER_AUTOCLEAR, staysRaw ? autoclear : autoclear & ~QCOW2_AUTOCLEAR_RAW_DATA);
  const name = data_file ?? dataFile ?? "";
  const others = extensions.list.filter(({ type }) => type !== EXTENSION_DATA_FILE);
  const at = others.findIndex(({ type }) => type !== EXTENSION_BACKING_FORMAT);
  if (name !== "") others.splice(at < 0 ? others.length : at, 0, dataFileExtension(name));
  state.header = yield* rewriteHead(state.file, state.header, { fields: fields.bytes, extensions: others });
}

function* setLazy({ state, writeBack }: AmendParts, { lazy, version }: Wanted): Co<void> {
  const { header, file } = state;
  const isLazy = (header.compatible & QCOW2_COMPAT_LAZY_REFCOUNTS) !== 0n;
  if (lazy === isLazy) return;
  if (lazy) checkVersion3(version, "Lazy refcounts only supported with compatibility level 1.1 and above");
  // Counts that are not lazy any more are right.
  yield* writeBack.settle();
  const incompatible = state.header.incompatible & ~QCOW2_INCOMPAT_DIRTY;
  const compatible = header.compatible ^ QCOW2_COMPAT_LAZY_REFCOUNTS;
  const features = new ByteView(new Uint8Array(16));
  features.setBigU64be(0, incompatible);
  features.setBigU64be(8, compatible);
  yield* file.write(HEADER_INCOMPATIBLE, IoVector.of(features.bytes));
  yield* file.flush();
  state.header = { ...state.header, incompatible, compatible };
}

/** Version 3 wants more of the snapshot table, and has names of features. */
function* upgrade({ state, snapshots }: AmendParts): Co<void> {
  yield* snapshots.complete();
  const { view, extensions } = yield* readHead(state.file, state.header);
  const fields = new ByteView(new Uint8Array(HEADER_BYTES[3]));
  fields.bytes.set(view.bytes.subarray(0, HEADER_BYTES[2]));
  fields.setU32be(HEADER_VERSION, 3);
  fields.setU32be(HEADER_ORDER, ORDER_OF_VERSION_2);
  fields.setU32be(HEADER_LENGTH, HEADER_BYTES[3]);
  const kept = extensions.list.filter(({ type }) => type !== EXTENSION_BITMAPS && type !== EXTENSION_FEATURE_NAMES);
  const room = 2 ** state.header.clusterBits - HEADER_BYTES[3] - extensionsLength(kept) + PREFIX_BYTES;
  state.header = yield* rewriteHead(state.file, state.header, {
    fields: fields.bytes,
    extensions: [...kept, ...featureNamesExtension(room)],
  });
  state.entries = new EntryLayout(state.header);
}

function* downgrade(parts: AmendParts, tell: (done: number) => void): Co<void> {
  const { state, snapshots } = parts;
  checkDowngradable(parts);
  yield* expandZeros(parts, yield* snapshots.l1Tables(), (done, total) => tell(done / total));
  const { view, extensions } = yield* readHead(state.file, state.header);
  const fields = new ByteView(view.bytes.slice(0, HEADER_BYTES[2]));
  fields.setU32be(HEADER_VERSION, 2);
  const kept = extensions.list.filter(({ type }) => type !== EXTENSION_BITMAPS && type !== EXTENSION_FEATURE_NAMES);
  state.header = yield* rewriteHead(state.file, state.header, { fields: fields.bytes, extensions: kept });
}

/** @throws {BlockError} ENOTSUP for what version 2 has no place for. */
function checkDowngradable({ state, snapshots, persistent }: AmendParts): void {
  const { refcountOrder, incompatible } = state.header;
  const refuse = (why: string): never => {
    throw new BlockError("ENOTSUP", why);
  };
  if (refcountOrder !== ORDER_OF_VERSION_2) refuse("compat=0.10 requires refcount_bits=16");
  if (snapshots.needVersion3()) refuse("Internal snapshots prevent downgrade of image");
  const features = incompatible & ~QCOW2_INCOMPAT_DIRTY;
  if (features !== 0n) refuse(`Cannot downgrade an image with incompatible features 0x${features.toString(16)} set`);
  if (persistent.information() !== undefined) refuse("Cannot downgrade an image with persistent bitmaps");
}
