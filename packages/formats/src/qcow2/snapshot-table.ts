/**
 * The table of internal snapshots (qcow2 specification, "Snapshots"): bytes to a list and back. Its entries end in texts
 * of any length, so that its own length is only known when it was read.
 */
import { alignUp, BlockError, ByteView, type Co, decodeUtf8 } from "@spindle/base";
import type { BlockNode } from "@spindle/block";
import { SNAPSHOTS_MAX } from "./header.ts";
import { readPadded } from "./padded-read.ts";

/** The part of an entry that all have: up to the extra data. */
const FIXED_BYTES = 40;
const TABLE_BYTES_MAX = 1024 * SNAPSHOTS_MAX;
/** More extra data than this is refused; version 3 wants at least this much. */
export const EXTRA_DATA_MAX = 1024;
export const EXTRA_DATA_LEAST = 16;
/** What a writer of today knows: the size of the state in 64 bits, the length of the disk, the instruction count. */
const EXTRA_DATA_KNOWN = 24;
export const L1_ENTRIES_MAX: number = (32 * 1024 * 1024) / 8;
/** Entries of L1 tables of all snapshots that are looked at: 1 TiB at the default cluster size with 60,000 snapshots. */
export const TABLE_ENTRIES_MAX: number = 2 ** 27;
const WINDOW_BYTES: number = 64 * 1024;

export interface SnapshotEntry {
  readonly id: string;
  readonly name: string;
  /** Bytes; rounded above 2^53, where no file reaches. */
  readonly l1Offset: number;
  readonly l1Entries: number;
  /** The length of the extra data as the file says it. */
  readonly extraDataSize: number;
  /** The whole entry, with no more extra data than is allowed. */
  readonly bytes: Uint8Array;
}

export interface SnapshotTable {
  readonly entries: readonly SnapshotEntry[];
  /** Bytes from the first entry to the end of the last. */
  readonly length: number;
  /** Entries that did not fit into the largest table, and were left out. */
  readonly overhanging: number;
}

/**
 * @param lenient takes what fits of a table that is too large, and shortens extra data that is too long
 * @throws {BlockError} EFBIG when the table is too large.
 */
export function* readSnapshotTable(
  file: BlockNode,
  offset: number,
  count: number,
  lenient: boolean,
): Co<SnapshotTable> {
  const source = new TableReader(file);
  const entries: SnapshotEntry[] = [];
  let at = offset;
  let kept = 0;
  for (let index = 0; index < count; index++) {
    const start = alignUp(at, 8);
    if (!source.has(start, FIXED_BYTES)) yield* source.load(start, FIXED_BYTES);
    const { view } = source;
    const place = source.placeOf(start);
    const extraDataSize = view.getUint32(place + 36);
    if (extraDataSize > EXTRA_DATA_MAX && !lenient)
      throw new BlockError("EFBIG", `Too much extra metadata in snapshot table entry ${index}`);
    const extra = Math.min(extraDataSize, EXTRA_DATA_MAX);
    const l1Offset = view.getUint32(place) * 2 ** 32 + view.getUint32(place + 4);
    const l1Entries = view.getUint32(place + 8);
    const nameAt = FIXED_BYTES + extra + view.getUint16(place + 12);
    const length = nameAt + view.getUint16(place + 14);
    const end = start + length - extra + extraDataSize;
    kept = alignUp(kept, 8) + length;
    if (kept > TABLE_BYTES_MAX || end - offset > 2 ** 31 - 1) {
      if (!lenient) throw new BlockError("EFBIG", "Snapshot table is too big");
      return { entries, length: at - offset, overhanging: count - index };
    }
    const bytes =
      extra === extraDataSize && source.has(start, length)
        ? source.bytes(start, length)
        : yield* readEntry(source, start, { end, first: FIXED_BYTES + extra, length });
    const id = text(bytes, FIXED_BYTES + extra, nameAt);
    entries.push({ id, name: text(bytes, nameAt, length), l1Offset, l1Entries, extraDataSize, bytes });
    at = end;
  }
  return { entries, length: at - offset, overhanging: 0 };
}

/** An entry's first bytes, and as many in front of its end as make `length`: extra data that is too long is left out. */
function* readEntry(
  source: TableReader,
  start: number,
  { end, first, length }: { readonly end: number; readonly first: number; readonly length: number },
): Co<Uint8Array> {
  const bytes = new Uint8Array(length);
  yield* source.load(start, first);
  bytes.set(source.bytes(start, first));
  yield* source.load(end - (length - first), length - first);
  bytes.set(source.bytes(end - (length - first), length - first), first);
  return bytes;
}

/** The texts are C strings to QEMU. */
function text(bytes: Uint8Array, start: number, end: number): string {
  const zero = bytes.indexOf(0, start);
  const stop = zero < 0 ? end : Math.min(zero, end);
  return stop === start ? "" : decodeUtf8(bytes.subarray(start, stop));
}

/** The table that holds these entries, each with all the extra data that a writer of today writes. @param diskSize bytes */
export function snapshotTableBytes(entries: readonly SnapshotEntry[], diskSize: number): Uint8Array {
  const parts = entries.map((entry) => completeEntry(entry, diskSize));
  const length = parts.reduce((sum, part) => alignUp(sum, 8) + part.length, 0);
  const table = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    at = alignUp(at, 8);
    table.set(part, at);
    at += part.length;
  }
  return table;
}

function completeEntry({ bytes, extraDataSize }: SnapshotEntry, diskSize: number): Uint8Array {
  const present = Math.min(extraDataSize, EXTRA_DATA_MAX);
  const extra = Math.max(present, EXTRA_DATA_KNOWN);
  const texts = bytes.subarray(FIXED_BYTES + present);
  const view = new ByteView(new Uint8Array(FIXED_BYTES + extra + texts.length));
  view.bytes.set(bytes.subarray(0, FIXED_BYTES + present));
  view.bytes.set(texts, FIXED_BYTES + extra);
  view.setU32be(36, extra);
  // What the entry left out is what it meant by leaving it out.
  if (present < 8) view.setU64be(FIXED_BYTES, view.u32be(32));
  if (present < 16) view.setU64be(FIXED_BYTES + 8, diskSize);
  if (present < 24) view.setBigU64be(FIXED_BYTES + 16, 2n ** 64n - 1n);
  return view.bytes;
}

/** Small pieces of a file that are read one after the other: views of larger ones, because there may be very many. */
class TableReader {
  readonly #file: BlockNode;
  #window: Uint8Array = new Uint8Array(0);
  #start = 0;
  #view: DataView = new DataView(new ArrayBuffer(0));

  constructor(file: BlockNode) {
    this.#file = file;
  }

  /** Whether these bytes of the file are in memory. */
  has(offset: number, length: number): boolean {
    return offset >= this.#start && offset + length <= this.#start + this.#window.length;
  }

  /** Reads them, and what is behind them, instead of what was there. */
  *load(offset: number, length: number): Co<void> {
    this.#window = new Uint8Array(Math.max(length, WINDOW_BYTES));
    this.#start = offset;
    yield* readPadded(this.#file, offset, this.#window);
    this.#view = new DataView(this.#window.buffer);
  }

  /** The bytes that were loaded last. */
  get view(): DataView {
    return this.#view;
  }

  /** Where an offset of the file is in {@link view}. */
  placeOf(offset: number): number {
    return offset - this.#start;
  }

  bytes(offset: number, length: number): Uint8Array {
    return this.#window.subarray(offset - this.#start, offset - this.#start + length);
  }
}
