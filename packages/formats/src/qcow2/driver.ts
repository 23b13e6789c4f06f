/** Driver `qcow2`: opens an image and puts its parts together. docs/formats/qcow2.md tells what is supported. */
import { alignUp, BlockError, ByteView, type Co, errnoText, isBlockError } from "@spindle/base";
import {
  type BackingFile,
  type BlockDriver,
  type BlockNode,
  type Children,
  type ClusterMap,
  type DirtyBitmaps,
  type DriverDefinition,
  type Extent,
  type ImageInformation,
  type InFlightTickets,
  type InternalSnapshot,
  IoVector,
  type OpenRequest,
  type Preallocation,
  type WriteFlags,
} from "@spindle/block";
import { ClusterImage } from "../cluster-image.ts";
import { CIPHER_SECTOR } from "../luks/sector-cipher.ts";
import { amendImage, QCOW2_AMEND_OPTIONS } from "./amend.ts";
import { dropBackingFile, renameBackingFile } from "./backing-link.ts";
import { checkQcow2 } from "./check.ts";
import { Corruption } from "./corruption.ts";
import { createQcow2, preallocationOf, QCOW2_CREATE_OPTIONS } from "./create.ts";
import { openEncryption } from "./encryption.ts";
import { encryptionToOpen } from "./encryption-options.ts";
import {
  type CompressionType,
  hasDataFile,
  isDataFileRaw,
  QCOW2_AUTOCLEAR_BITMAPS,
  QCOW2_AUTOCLEAR_RAW_DATA,
  QCOW2_COMPAT_LAZY_REFCOUNTS,
  QCOW2_INCOMPAT_CORRUPT,
  QCOW2_INCOMPAT_DIRTY,
  QCOW2_MAGIC,
  type Qcow2Header,
} from "./header.ts";
import type { ImageState } from "./image-state.ts";
import { reclaimLeaks } from "./leaks.ts";
import { Qcow2ClusterMap } from "./mapping.ts";
import { measureQcow2 } from "./measure.ts";
import { QCOW2_OPEN_OPTIONS } from "./open-options.ts";
import { openState } from "./open-state.ts";
import { PersistentBitmaps } from "./persistent-bitmaps.ts";
import { preallocateClusters } from "./preallocate.ts";
import { prepareCheck } from "./prepare-check.ts";
import { readHeader } from "./read-header.ts";
import { emptyImage, growL1, resizeImage } from "./resize.ts";
import { Qcow2Snapshots, type SnapshotParts } from "./snapshot.ts";
import { WriteBack } from "./write-back.ts";

const HEADER_AUTOCLEAR = 88;

class Qcow2Driver implements BlockDriver {
  readonly name = "qcow2";
  /** What is encrypted is encrypted by the sector. */
  readonly requestAlignment: number;
  readonly clusterSize: number;
  readonly snapshots: Qcow2Snapshots;
  readonly bitmaps: DirtyBitmaps;
  readonly #persistent: PersistentBitmaps;
  readonly #map: Qcow2ClusterMap;
  readonly #state: ImageState;
  readonly #image: ClusterImage;
  /** The same clusters, behind the disk and without anything below them. */
  readonly #machineState: ClusterImage;
  readonly #writeBack: WriteBack;
  readonly #readOnly: boolean;
  readonly #corruption: Corruption;

  private constructor(
    parts: SnapshotParts,
    snapshots: Qcow2Snapshots,
    persistent: PersistentBitmaps,
    readOnly: boolean,
  ) {
    const { state } = parts;
    this.#persistent = persistent;
    this.bitmaps = persistent.bitmaps;
    this.#state = state;
    this.#readOnly = readOnly;
    this.clusterSize = state.clusterSize;
    this.#writeBack = parts.writeBack;
    this.requestAlignment = state.encryption === null ? 1 : CIPHER_SECTOR;
    this.#map = parts.map;
    this.snapshots = snapshots;
    this.#corruption = parts.corruption;
    this.#image = new ClusterImage(this.#map, state.children, () => state.header.size, state.encryption);
    const alone = { ...state.children, backing: null };
    this.#machineState = new ClusterImage(this.#map, alone, () => Number.MAX_SAFE_INTEGER, state.encryption);
  }

  static *open(state: ImageState, request: OpenRequest, corruption: Corruption): Co<Qcow2Driver> {
    const writeBack = new WriteBack(state);
    const parts = { state, writeBack, corruption, map: new Qcow2ClusterMap(state, writeBack, corruption) };
    const snapshots = yield* Qcow2Snapshots.open(parts);
    const persistent = yield* PersistentBitmaps.open(state, writeBack, request.nodeName);
    if (!request.readOnly) yield* persistent.markInUse();
    return new Qcow2Driver(parts, snapshots, persistent, request.readOnly);
  }

  /** What others place in the file without asking is not encrypted. */
  get clusters(): ClusterMap | undefined {
    return this.#state.encryption === null ? this.#map : undefined;
  }

  get compression(): CompressionType {
    return this.#state.header.compression;
  }

  get backingFile(): BackingFile | null {
    const { backingFile, backingFormat } = this.#state.header;
    return backingFile === null ? null : { filename: backingFile, format: backingFormat };
  }

  length(): number {
    return this.#state.header.size;
  }
  read(offset: number, vector: IoVector): Co<void> {
    return this.#image.read(offset, vector);
  }
  write(offset: number, vector: IoVector, { placed }: WriteFlags): Co<void> {
    return this.#corruption.watch(this.#image.write(offset, vector, placed));
  }
  writesInPlace(offset: number, length: number): Co<boolean> {
    return this.#image.writesInPlace(offset, length);
  }
  writeZeroes(offset: number, length: number, flags: WriteFlags): Co<void> {
    if (flags.noFallback === true && this.#state.header.version < 3)
      throw new BlockError("ENOTSUP", "images of version 2 have no zero clusters");
    return this.#corruption.watch(this.#image.writeZeroes(offset, length, flags));
  }
  discard(offset: number, length: number): Co<void> {
    return this.#corruption.watch(this.#image.discard(offset, length));
  }
  writeCompressed(offset: number, vector: IoVector): Co<void> {
    return this.#corruption.watch(this.#writeCompressed(offset, vector));
  }
  *#writeCompressed(offset: number, vector: IoVector): Co<void> {
    const packed = this.#map.compress(offset, vector.toBytes());
    if (packed === undefined) yield* this.#image.write(offset, vector);
    else yield* this.#map.writePacked(offset, [packed]);
  }
  writePacked(offset: number, clusters: readonly Uint8Array[]): Co<void> {
    return this.#corruption.watch(this.#map.writePacked(offset, clusters));
  }
  blockStatus(offset: number, length: number): Co<Extent> {
    return this.#image.blockStatus(offset, length);
  }
  flush(): Co<void> {
    return this.#corruption.watch(this.#writeBack.flush());
  }
  *writeMetadata(): Co<void> {
    yield* this.#corruption.watch(this.#writeBack.writeBack());
  }

  truncate(length: number, preallocation: Preallocation = "off"): Co<void> {
    const writeZeroes = (offset: number, count: number): Co<void> => this.#image.writeZeroes(offset, count, {});
    const parts = { state: this.#state, map: this.#map, writeBack: this.#writeBack, writeZeroes };
    return this.#corruption.watch(resizeImage(parts, length, preallocation));
  }

  /** Gives every guest cluster of a new image its host cluster. */
  *preallocate(preallocation: Exclude<Preallocation, "off">): Co<void> {
    const to = alignUp(this.length(), this.clusterSize);
    yield* preallocateClusters(this.#state, this.#map, { from: 0, to }, preallocation);
  }

  makeEmpty(): Co<void> {
    return this.#corruption.watch(emptyImage({ state: this.#state, map: this.#map, writeBack: this.#writeBack }));
  }

  amend(options: Readonly<Record<string, string>>, tell: (done: number) => void, force: boolean): Co<void> {
    const parts = {
      state: this.#state,
      map: this.#map,
      writeBack: this.#writeBack,
      corruption: this.#corruption,
      snapshots: this.snapshots,
      persistent: this.#persistent,
      force,
      resize: (length: number) => this.bitmaps.resize(length, this.truncate(length)),
    };
    return this.#corruption.watch(amendImage(parts, options, tell));
  }

  *changeBackingFile(backing: BackingFile | null): Co<void> {
    yield* this.flush();
    const { file, header } = this.#state;
    if (backing === null) yield* dropBackingFile(file, header);
    else yield* renameBackingFile(file, header, backing);
    this.#state.header = yield* readHeader(file);
  }

  /** Counts down clusters that nothing refers to, as a crash leaves them. Nothing else is in flight. */
  *reclaimLeaks(): Co<number> {
    yield* this.#corruption.watch(this.#writeBack.settle());
    yield* this.#writeBack.reclaim();
    // A request in flight may still use what it holds back, and that is counted down later.
    if (this.#writeBack.hasReclaimable) return 0;
    yield* this.#writeBack.settle();
    const count = yield* reclaimLeaks(this.#state);
    if (count > 0) yield* this.flush();
    return count;
  }

  *close(): Co<void> {
    // Of an image that was found corrupt, nothing more is written.
    if (this.#readOnly || this.#state.isDamaged) return;
    // Both are tried, and each tells of its failure, as in QEMU.
    const failures = [
      yield* failureOf("the L2 table cache", this.#flushTables()),
      yield* failureOf("the refcount block cache", this.#settle()),
    ].filter((error) => error !== undefined);
    const [first] = failures;
    if (first !== undefined) throw new BlockError(first.code, failures.map(({ message }) => message).join("\n"));
    yield* this.#corruption.watch(this.#persistent.store());
    yield* this.#writeBack.markClean();
  }

  #flushTables(): Co<void> {
    const { l2, dirtyL1 } = this.#state;
    return l2.dirtyCount + dirtyL1.size > 0 ? this.flush() : this.#state.flushFiles();
  }

  *#settle(): Co<void> {
    // Nothing is in flight any more: what was freed last is counted down too.
    yield* this.#writeBack.reclaim();
    yield* this.#corruption.watch(this.#writeBack.settle());
  }

  /** The first L2 table's range that the disk leaves free. */
  machineStateOffset(): number {
    return alignUp(this.length(), this.clusterSize * this.#state.entriesPerTable);
  }

  *readMachineState(offset: number, vector: IoVector): Co<void> {
    yield* this.#state.file.tell("vmstate_load");
    yield* this.#machineState.read(this.machineStateOffset() + offset, vector);
  }
  writeMachineState(offset: number, vector: IoVector): Co<void> {
    return this.#corruption.watch(this.#writeMachineState(this.machineStateOffset() + offset, vector));
  }
  *#writeMachineState(offset: number, vector: IoVector): Co<void> {
    yield* this.#state.file.tell("vmstate_save");
    yield* growL1({ state: this.#state, writeBack: this.#writeBack }, offset + vector.length);
    yield* this.#machineState.write(offset, vector);
  }

  information(): ImageInformation {
    const { header } = this.#state;
    const bitmaps = this.#persistent.information();
    const snapshots = this.snapshots.told(snapshotInformation);
    const third = {
      "lazy-refcounts": (header.compatible & QCOW2_COMPAT_LAZY_REFCOUNTS) !== 0n,
      ...(bitmaps === undefined ? {} : { bitmaps }),
      ...(header.dataFile === null ? {} : { "data-file": header.dataFile }),
      ...(hasDataFile(header) ? { "data-file-raw": isDataFileRaw(header) } : {}),
      corrupt: (header.incompatible & QCOW2_INCOMPAT_CORRUPT) !== 0n,
      "extended-l2": this.#state.entries.extended,
    };
    const { encryption } = this.#state;
    const data = {
      compat: header.version === 3 ? "1.1" : "0.10",
      "compression-type": header.compression,
      "refcount-bits": 2 ** header.refcountOrder,
      ...(encryption === null ? {} : { encrypt: encryption.information() }),
      ...(header.version === 3 ? third : {}),
    };
    return {
      "cluster-size": this.clusterSize,
      ...(encryption === null ? {} : { encrypted: true }),
      "dirty-flag": (header.incompatible & QCOW2_INCOMPAT_DIRTY) !== 0n,
      "format-specific": { type: "qcow2", data },
      ...(snapshots.length === 0 ? {} : { snapshots }),
    };
  }

  /** The key of an encrypted image stays on this thread. */
  shareableOptions(): Readonly<Record<string, unknown>> | undefined {
    return this.#state.encryption === null ? {} : undefined;
  }
}

/** The error with which a part of the memory does not reach the file, in QEMU's words. */
function* failureOf(part: string, work: Co<void>): Co<BlockError | undefined> {
  try {
    yield* work;
    return undefined;
  } catch (error) {
    if (!isBlockError(error)) throw error;
    return new BlockError(error.code, `Failed to flush ${part}: ${errnoText(error.code)}`, error.context, error);
  }
}

const NANOSECONDS = 1_000_000_000n;

/** With qemu-img's JSON keys. */
function snapshotInformation(snapshot: InternalSnapshot): Readonly<Record<string, string | number>> {
  const { id, name, machineClock, instructions } = snapshot;
  return {
    id,
    name,
    "vm-state-size": snapshot.machineStateSize,
    "date-sec": snapshot.dateSeconds,
    "date-nsec": snapshot.dateNanoseconds,
    "vm-clock-sec": Number(machineClock / NANOSECONDS),
    "vm-clock-nsec": Number(machineClock % NANOSECONDS),
    ...(instructions === undefined ? {} : { icount: Number(instructions) }),
  };
}

function* openQcow2(request: OpenRequest): Co<Qcow2Driver> {
  const file = request.children.file as BlockNode;
  let header = yield* readHeader(file);
  if (!request.readOnly) {
    checkWritable(header);
    if (hasDataFile(header) && request.children.data === undefined) throw new BlockError("EINVAL", DATA_FILE_REQUIRED);
    if ((header.incompatible & QCOW2_INCOMPAT_DIRTY) !== 0n) header = yield* repairDirty(file);
  }
  const encryption = yield* openEncryption(request, header);
  const state = yield* openState(request, header, encryption);
  if (!request.readOnly) yield* clearAutoclear(state);
  const corruption = new Corruption(state, request.corrupted ?? (() => {}));
  return yield* Qcow2Driver.open(state, request, corruption);
}

const DATA_FILE_REQUIRED = "'data-file' is required for this image";

/** A new image, which nobody else knows of. */
const UNUSED: InFlightTickets = { ticket: () => 0, oldestTicket: () => Number.POSITIVE_INFINITY };

export const qcow2Format: DriverDefinition = {
  name: "qcow2",
  kind: "format",
  supportsBacking: true,
  supportsCompression: true,
  ownsFile: true,
  options: QCOW2_OPEN_OPTIONS,
  *dataFile(file) {
    const header = yield* readHeader(file);
    return hasDataFile(header) ? { filename: header.dataFile } : null;
  },
  probe(head) {
    const isQcow = head.length >= 8 && new DataView(head.buffer, head.byteOffset).getUint32(0) === QCOW2_MAGIC;
    return isQcow && new DataView(head.buffer, head.byteOffset).getUint32(4) >= 2 ? 100 : 0;
  },
  open: openQcow2,
  measure: measureQcow2,
  *create(file, options, environment) {
    yield* createQcow2(file, options, environment);
    const { dataFile } = options;
    const preallocation = preallocationOf(options.options);
    const space = preallocation === "metadata" ? "off" : preallocation;
    if (dataFile !== undefined) yield* dataFile.truncate(alignUp(options.size, 512), space);
    if (preallocation === "off") return;
    const children: Children = { file, backing: null, ...(dataFile === undefined ? {} : { data: dataFile }) };
    const image = { nodeName: file.name, options: {}, children, readOnly: false, environment, inFlight: UNUSED };
    const driver = yield* openQcow2({ ...image, withoutData: true });
    yield* driver.preallocate(preallocation);
    yield* driver.close();
  },
  optionsToOpen: encryptionToOpen,
  createOptions: QCOW2_CREATE_OPTIONS,
  amendOptions: QCOW2_AMEND_OPTIONS,
  prepareCheck,
  check: checkQcow2,
};

function checkWritable(header: Qcow2Header): void {
  if ((header.incompatible & QCOW2_INCOMPAT_CORRUPT) !== 0n)
    throw new BlockError("EACCES", "qcow2: Image is corrupt; cannot be opened read/write", { corrupt: true });
}

/** The image was not closed while its refcounts were lazy: they are made anew. */
function* repairDirty(file: BlockNode): Co<Qcow2Header> {
  const { checkErrors, corruptions } = yield* checkQcow2(file, { repair: "all", report: () => {} });
  if (checkErrors + corruptions > 0)
    throw new BlockError("EIO", "Could not repair dirty image: Input/output error", { corrupt: true });
  return yield* readHeader(file);
}

/** Features that a writer does not keep up say so by their autoclear bits being cleared. */
function* clearAutoclear(state: ImageState): Co<void> {
  const { header, file } = state;
  const kept = header.autoclear & (QCOW2_AUTOCLEAR_BITMAPS | QCOW2_AUTOCLEAR_RAW_DATA);
  if (header.version < 3 || header.autoclear === kept) return;
  const bits = new ByteView(new Uint8Array(8));
  bits.setBigU64be(0, kept);
  yield* file.write(HEADER_AUTOCLEAR, IoVector.of(bits.bytes));
  yield* file.flush();
  state.header = { ...header, autoclear: kept };
}
