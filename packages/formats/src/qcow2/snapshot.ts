/**
 * Internal snapshots (qcow2 specification, "Snapshots"). A snapshot is a copy of the L1 table; what it leads to has one more
 * user, and is copied by the next write to it. The header is the only place that makes a change true: everything that it
 * will point at is in the file before, and counted; what it no longer points at is given up behind it. A crash
 * leaves the snapshots of before or of after, counts that are too high, and flags that a repair sets right.
 */
import { alignUp, BlockError, ByteView, type Co, encodeUtf8 } from "@spindle/base";
import { type InternalSnapshot, type InternalSnapshots, IoVector } from "@spindle/block";
import type { ClusterRun } from "./allocate.ts";
import type { Corruption } from "./corruption.ts";
import { SNAPSHOTS_MAX } from "./header.ts";
import type { ImageState } from "./image-state.ts";
import { readL1Entry, writeL1Entry } from "./l2-entry.ts";
import type { Qcow2ClusterMap } from "./mapping.ts";
import { readPadded } from "./padded-read.ts";
import { corrupt } from "./refcount.ts";
import { readSnapshotMetadata } from "./snapshot-metadata.ts";
import {
  EXTRA_DATA_LEAST,
  L1_ENTRIES_MAX,
  readSnapshotTable,
  type SnapshotEntry,
  snapshotTableBytes,
} from "./snapshot-table.ts";
import { countTree, discountTree, refreshCopied } from "./table-tree.ts";
import type { WriteBack } from "./write-back.ts";

/** Where the header holds the number of snapshots, and behind it where their table stands. */
const HEADER_SNAPSHOTS = 60;
/** Where it holds the disk's length, the method of encryption, and the L1 table's entries and offset. */
const HEADER_SIZE = 24;
const FIXED_BYTES = 40;
const EXTRA_BYTES = 24;
const NAME_BYTES_MAX = 65_535;
const NO_INSTRUCTIONS = 2n ** 64n - 1n;

export interface SnapshotParts {
  readonly state: ImageState;
  readonly map: Qcow2ClusterMap;
  readonly writeBack: WriteBack;
  readonly corruption: Corruption;
}

interface PreparedTable {
  readonly entries: readonly SnapshotEntry[];
  readonly run: ClusterRun;
  /** Bytes. */
  readonly length: number;
}

export class Qcow2Snapshots implements InternalSnapshots {
  readonly #parts: SnapshotParts;
  #entries: readonly SnapshotEntry[];
  /** Bytes of the table in the file. */
  #tableLength: number;

  private constructor(parts: SnapshotParts, entries: readonly SnapshotEntry[], tableLength: number) {
    this.#parts = parts;
    this.#entries = entries;
    this.#tableLength = tableLength;
  }

  /** Reads the table. @throws {BlockError} EFBIG when it is too large. */
  static *open(parts: SnapshotParts): Co<Qcow2Snapshots> {
    const { header, file } = parts.state;
    const table = yield* readSnapshotTable(file, header.snapshotsOffset, header.snapshotCount, false);
    return new Qcow2Snapshots(parts, table.entries, table.length);
  }

  list(): readonly InternalSnapshot[] {
    return this.told((snapshot) => snapshot);
  }

  /** Each of them in other words, without a list of all in between: there may be very many. */
  told<T>(tell: (snapshot: InternalSnapshot) => T): T[] {
    return this.#entries.map((entry) => tell(describe(entry)));
  }

  create(name: string, dateSeconds: number, dateNanoseconds: number): Co<void> {
    return this.#parts.corruption.watch(this.#create(name, dateSeconds, dateNanoseconds));
  }

  *#create(name: string, dateSeconds: number, dateNanoseconds: number): Co<void> {
    const { state, writeBack } = this.#parts;
    if (this.#entries.length >= SNAPSHOTS_MAX) throw new BlockError("EFBIG", "the image has too many snapshots");
    if (encodeUtf8(name).length > NAME_BYTES_MAX) throw new BlockError("EINVAL", "the snapshot's name is too long");
    yield* this.#settle();
    const { l1, clusterSize, header } = state;
    const run = yield* this.#allocateL1(header.l1Entries);
    const l1Offset = run.index * clusterSize;
    const place = { l1Offset, l1Entries: header.l1Entries, diskSize: header.size };
    const entry = makeEntry(this.#nextId(), name, { ...place, dateSeconds, dateNanoseconds });
    yield* this.#writeL1(run, l1);
    const prepared = yield* this.#shared(l1, function* (snapshots) {
      yield* refreshCopied(state, writeBack);
      return yield* snapshots.#prepareTable([...snapshots.#entries, entry]);
    });
    yield* this.#commitTable(prepared);
    yield* writeBack.flush();
  }

  *show(id: string): Co<void> {
    const { state, map } = this.#parts;
    const l1 = yield* this.#readL1(this.#find(id));
    state.l1 = l1;
    state.header = { ...state.header, l1Entries: l1.byteLength / 8 };
    state.l2.clear();
    map.forgetCompressed();
  }

  /** The L1 tables, in the image's order. */
  *l1Tables(): Co<DataView[]> {
    const tables: DataView[] = [];
    for (const entry of this.#entries) tables.push(yield* this.#readL1(entry));
    return tables;
  }

  /** Whether one of them has what version 2 has no place for: a machine's state, or a disk of another length. */
  needVersion3(): boolean {
    const { size } = this.#parts.state.header;
    return this.#entries.some((entry) => describe(entry).machineStateSize !== 0 || sizeOf(entry, size) !== size);
  }

  /** Writes the table with all that version 3 wants of its entries. */
  *complete(): Co<void> {
    if (this.#entries.every(({ extraDataSize }) => extraDataSize >= EXTRA_DATA_LEAST)) return;
    yield* this.#settle();
    yield* this.#commitTable(yield* this.#prepareTable(this.#entries));
    const { file, header } = this.#parts.state;
    const { entries } = yield* readSnapshotTable(file, header.snapshotsOffset, header.snapshotCount, false);
    this.#entries = entries;
    yield* this.#parts.writeBack.flush();
  }

  apply(id: string): Co<void> {
    return this.#parts.corruption.watch(this.#apply(id));
  }

  *#apply(id: string): Co<void> {
    const { state, map, writeBack } = this.#parts;
    this.#checkShareable();
    const entry = this.#find(id);
    const l1 = yield* this.#readL1(entry);
    yield* this.#settle();
    const { clusterSize, entriesPerTable, header } = state;
    const size = sizeOf(entry, header.size);
    const entries = Math.max(header.l1Entries, entry.l1Entries, Math.ceil(size / (clusterSize * entriesPerTable)));
    const run = yield* this.#allocateL1(entries);
    const active = yield* this.#shared(l1, function* (snapshots) {
      const copy = yield* snapshots.#writeL1(run, l1);
      yield* writeBack.flush();
      return copy;
    });
    yield* this.#switchL1(run, { size, entries, active });
    map.forgetCompressed();
    yield* writeBack.flush();
  }

  remove(id: string): Co<void> {
    return this.#parts.corruption.watch(this.#remove(id));
  }

  *#remove(id: string): Co<void> {
    const { state, map, writeBack } = this.#parts;
    const entry = this.#find(id);
    const l1 = yield* this.#readL1(entry);
    yield* this.#settle();
    yield* this.#commitTable(yield* this.#prepareTable(this.#entries.filter((other) => other !== entry)));
    yield* discountTree(state, l1);
    const count = Math.ceil((entry.l1Entries * 8) / state.clusterSize);
    yield* state.allocator.decrement({ index: entry.l1Offset / state.clusterSize, count });
    map.forgetCompressed();
    yield* refreshCopied(state, writeBack);
    yield* writeBack.flush();
  }

  /** Afterwards the file is as memory is, and nothing waits to be given up. */
  *#settle(): Co<void> {
    const { writeBack } = this.#parts;
    this.#checkShareable();
    yield* writeBack.flush();
    yield* writeBack.reclaimAll();
    yield* writeBack.flush();
  }

  #checkShareable(): void {
    if (this.#parts.state.hasDataFile)
      throw new BlockError("ENOTSUP", "the clusters of a data file cannot be shared with snapshots");
  }

  #find(id: string): SnapshotEntry {
    const entry = this.#entries.find((other) => other.id === id);
    if (entry === undefined) throw new BlockError("ENOENT", `there is no snapshot with the id '${id}'`);
    return entry;
  }

  #nextId(): string {
    return String(this.#entries.reduce((most, { id }) => Math.max(most, Number.parseInt(id, 10) || 0), 0) + 1);
  }

  /** A disk of nothing has no L1 table. */
  *#allocateL1(entries: number): Co<ClusterRun> {
    const { allocator, clusterSize } = this.#parts.state;
    return entries === 0 ? { index: 0, count: 0 } : yield* allocator.allocate(Math.ceil((entries * 8) / clusterSize));
  }

  *#readL1({ l1Offset, l1Entries }: SnapshotEntry): Co<DataView> {
    const { file, clusterSize } = this.#parts.state;
    if (l1Entries > L1_ENTRIES_MAX) throw new BlockError("EFBIG", "Snapshot L1 table too large");
    const bytes = new Uint8Array(l1Entries * 8);
    if (l1Offset % clusterSize !== 0 || l1Offset + bytes.length > alignUp(file.length, clusterSize))
      throw corrupt(`a snapshot's L1 table is said to stand at ${l1Offset}`);
    yield* readPadded(file, l1Offset, bytes);
    return new DataView(bytes.buffer);
  }

  /** Writes a copy of an L1 table whose tables all have other users. @returns the copy, as long as its clusters */
  *#writeL1(run: ClusterRun, l1: DataView): Co<DataView> {
    const { file, clusterSize } = this.#parts.state;
    const copy = new DataView(new ArrayBuffer(run.count * clusterSize));
    for (let index = 0; index < l1.byteLength / 8; index++) {
      const { hostOffset } = readL1Entry(l1, index, clusterSize);
      writeL1Entry(copy, index, { hostOffset, copied: false });
    }
    if (run.count > 0) yield* file.write(run.index * clusterSize, IoVector.of(new Uint8Array(copy.buffer)));
    return copy;
  }

  /**
   * Counts one more user of a tree and prepares what will use it. When that fails, everything is as before but for the clusters
   * of the L1 table that was to be written, which are leaked, as in QEMU; once the header may point at it, nothing is taken
   * back any more.
   */
  *#shared<T>(l1: DataView, prepare: (snapshots: Qcow2Snapshots) => Co<T>): Co<T> {
    const { state, writeBack } = this.#parts;
    yield* countTree(state, l1);
    try {
      return yield* prepare(this);
    } catch (error) {
      yield* discountTree(state, l1);
      yield* refreshCopied(state, writeBack);
      throw error;
    }
  }

  /** Writes another snapshot table, at which nothing points yet. */
  *#prepareTable(entries: readonly SnapshotEntry[]): Co<PreparedTable> {
    const { state, writeBack } = this.#parts;
    const { file, allocator, clusterSize, header } = state;
    const bytes = snapshotTableBytes(entries, header.size);
    const count = Math.ceil(bytes.length / clusterSize);
    const run = count === 0 ? { index: 0, count } : yield* allocator.allocate(count);
    try {
      if (count > 0) yield* file.write(run.index * clusterSize, IoVector.of(bytes));
      yield* writeBack.flush();
      return { entries, run, length: bytes.length };
    } catch (error) {
      yield* allocator.decrement(run);
      throw error;
    }
  }

  /** Lets the header point at the table, and gives up the old one. */
  *#commitTable({ entries, run, length }: PreparedTable): Co<void> {
    const { state } = this.#parts;
    const { file, allocator, clusterSize, header, metadata } = state;
    const offset = run.index * clusterSize;
    const pointer = new ByteView(new Uint8Array(12));
    pointer.setU32be(0, entries.length);
    pointer.setU64be(4, offset);
    yield* file.write(HEADER_SNAPSHOTS, IoVector.of(pointer.bytes));
    yield* file.flush();
    const old = { index: header.snapshotsOffset / clusterSize, count: Math.ceil(this.#tableLength / clusterSize) };
    state.header = { ...header, snapshotCount: entries.length, snapshotsOffset: offset };
    this.#entries = entries;
    this.#tableLength = length;
    for (let at = run.index; at < run.index + run.count; at++) metadata.add(at);
    for (let at = old.index; at < old.index + old.count; at++) metadata.delete(at);
    state.snapshots = yield* readSnapshotMetadata(file, state.header);
    metadata.setInactive(state.snapshots, clusterSize);
    yield* allocator.decrement(old);
  }

  /** Lets the header point at another L1 table and tell the length that goes with it, and gives up the tree of before. */
  *#switchL1(run: ClusterRun, next: { size: number; entries: number; active: DataView }): Co<void> {
    const { state } = this.#parts;
    const { file, clusterSize, metadata, allocator, header, l1 } = state;
    const { size, entries, active } = next;
    const offset = run.index * clusterSize;
    const pointer = new ByteView(new Uint8Array(24));
    pointer.setU64be(0, size);
    pointer.setU32be(8, header.cryptMethod);
    pointer.setU32be(12, entries);
    pointer.setU64be(16, offset);
    yield* file.write(HEADER_SIZE, IoVector.of(pointer.bytes));
    yield* file.flush();
    const old = { index: header.l1Offset / clusterSize, count: Math.ceil((header.l1Entries * 8) / clusterSize) };
    for (let at = old.index; at < old.index + old.count; at++) metadata.delete(at);
    for (const index of tablesOf(l1, clusterSize)) metadata.delete(index);
    state.header = { ...header, size, l1Entries: entries, l1Offset: offset };
    state.l1 = new DataView(active.buffer, 0, entries * 8);
    state.dirtyL1.clear();
    state.l2.clear();
    for (let at = run.index; at < run.index + run.count; at++) metadata.add(at);
    for (const index of tablesOf(state.l1, clusterSize)) metadata.add(index);
    yield* discountTree(state, l1);
    yield* allocator.decrement(old);
  }
}

function* tablesOf(l1: DataView, clusterSize: number): Generator<number, void, void> {
  for (let index = 0; index < l1.byteLength / 8; index++) {
    const { hostOffset } = readL1Entry(l1, index, clusterSize);
    if (hostOffset !== 0) yield hostOffset / clusterSize;
  }
}

function describe({ id, name, bytes, extraDataSize }: SnapshotEntry): InternalSnapshot {
  const view = new ByteView(bytes);
  const instructions = extraDataSize >= 24 ? view.bigU64be(FIXED_BYTES + 16) : NO_INSTRUCTIONS;
  return {
    id,
    name,
    dateSeconds: view.u32be(16),
    dateNanoseconds: view.u32be(20),
    machineClock: view.bigU64be(24),
    machineStateSize: extraDataSize >= 8 ? Number(view.bigU64be(FIXED_BYTES)) : view.u32be(32),
    instructions: instructions === NO_INSTRUCTIONS ? undefined : instructions,
  };
}

/** The length of the disk then. @param current the length now, which old entries mean */
function sizeOf({ bytes, extraDataSize }: SnapshotEntry, current: number): number {
  if (extraDataSize < 16) return current;
  const size = new ByteView(bytes).u64be(FIXED_BYTES + 8, "disk size of a snapshot");
  if (size % 512 !== 0) throw corrupt(`the disk of a snapshot is said to be ${size} bytes long`);
  return size;
}

interface EntryFields {
  readonly l1Offset: number;
  readonly l1Entries: number;
  readonly diskSize: number;
  readonly dateSeconds: number;
  readonly dateNanoseconds: number;
}

function makeEntry(id: string, name: string, fields: EntryFields): SnapshotEntry {
  const texts = encodeUtf8(`${id}${name}`);
  const view = new ByteView(new Uint8Array(FIXED_BYTES + EXTRA_BYTES + texts.length));
  view.setU64be(0, fields.l1Offset);
  view.setU32be(8, fields.l1Entries);
  view.setU16be(12, id.length);
  view.setU16be(14, texts.length - id.length);
  view.setU32be(16, fields.dateSeconds);
  view.setU32be(20, fields.dateNanoseconds);
  view.setU32be(36, EXTRA_BYTES);
  view.setU64be(FIXED_BYTES + 8, fields.diskSize);
  view.bytes.set(texts, FIXED_BYTES + EXTRA_BYTES);
  const { l1Offset, l1Entries } = fields;
  return { id, name, l1Offset, l1Entries, extraDataSize: EXTRA_BYTES, bytes: view.bytes };
}
