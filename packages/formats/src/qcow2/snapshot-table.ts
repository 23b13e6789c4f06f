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
    const fixed = new ByteView(yield* source.bytes(start, FIXED_BYTES));
    const extraDataSize = fixed.u32be(36);
    if (extraDataSize > EXTRA_DATA_MAX && !lenient)
      throw new BlockError("EFBIG", `Too much extra metadata in snapshot table entry ${index}`);
    const extra = Math.min(extraDataSize, EXTRA_DATA_MAX);
    const texts = fixed.u16be(12) + fixed.u16be(14);
    const textsOffset = start + FIXED_BYTES + extraDataSize;
    const end = textsOffset + texts;
    kept = alignUp(kept, 8) + FIXED_BYTES + extra + texts;
    if (kept > TABLE_BYTES_MAX || end - offset > 2 ** 31 - 1) {
      if (!lenient) throw new BlockError("EFBIG", "Snapshot table is too big");
      return { entries, length: at - offset, overhanging: count - index };
    }
    const bytes = new Uint8Array(FIXED_BYTES + extra + texts);
    bytes.set(fixed.bytes);
    bytes.set(yield* source.bytes(start + FIXED_BYTES, extra), FIXED_BYTES);
    bytes.set(yield* source.bytes(textsOffset, texts), FIXED_BYTES + extra);
    entries.push(parseEntry(bytes, extra, extraDataSize));
    at = end;
  }
  return { entries, length: at - offset, overhanging: 0 };
}

function parseEntry(bytes: Uint8Array, extra: number, extraDataSize: number): SnapshotEntry {
  const view = new ByteView(bytes);
  const idAt = FIXED_BYTES + extra;
  const nameAt = idAt + view.u16be(12);
  return {
    id: text(bytes.subarray(idAt, nameAt)),
    name: text(bytes.subarray(nameAt)),
    l1Offset: Number(view.bigU64be(0)),
    l1Entries: view.u32be(8),
    extraDataSize,
    bytes,
  };
}

/** The texts are C strings to QEMU. */
function text(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return decodeUtf8(end < 0 ? bytes : bytes.subarray(0, end));
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

/** Small pieces of a file that are read one after the other. */
class TableReader {
  readonly #file: BlockNode;
  #window: Uint8Array = new Uint8Array(0);
  #start = 0;

  constructor(file: BlockNode) {
    this.#file = file;
  }

  /** The bytes of a piece, to be used before the next is asked for. */
  *bytes(offset: number, length: number): Co<Uint8Array> {
    if (offset < this.#start || offset + length > this.#start + this.#window.length) {
      this.#window = new Uint8Array(Math.max(length, WINDOW_BYTES));
      this.#start = offset;
      yield* readPadded(this.#file, offset, this.#window);
    }
    return this.#window.slice(offset - this.#start, offset - this.#start + length);
  }
}
