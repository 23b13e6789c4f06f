/**
 * Writes another header with other extensions: of another version, or with extensions that come and go. The first sector,
 * which a disk writes whole or not at all, is what makes the new header true; what the new one has behind it is in the file
 * before. Where the old header still uses that space, a header between the two gives it up first: it has no names of
 * features, which nobody needs, and its backing file's name elsewhere.
 */
import { BlockError, ByteView, type Co, encodeUtf8, SECTOR_SIZE } from "@spindle/base";
import { type BlockNode, IoVector } from "@spindle/block";
import { EXTENSION_FEATURE_NAMES, type Qcow2Header } from "./header.ts";
import { extensionsLength, type HeaderExtension, writeExtensions } from "./header-extensions.ts";
import { readHead, readHeader } from "./read-header.ts";

/** Offset and, behind it, length of the backing file's name. */
const BACKING_FILE = 8;

export interface NewHead {
  /** The header's fields, as long as the header is to be; those of the backing file's name are filled in. */
  readonly fields: Uint8Array;
  readonly extensions: readonly HeaderExtension[];
}

/**
 * Durable when it ends; a crash leaves the old header, or the new one, or the old one without names of features.
 * @returns the header as the file has it now
 * @throws {BlockError} EINVAL when the header's cluster has no room; nothing was changed.
 */
export function* rewriteHead(file: BlockNode, header: Qcow2Header, next: NewHead): Co<Qcow2Header> {
  const { view, extensions } = yield* readHead(file, header);
  const clusterSize = 2 ** header.clusterBits;
  const name = encodeUtf8(header.backingFile ?? "");
  const bytes = headBytes(next, name, clusterSize) ?? headBytes(withoutNames(next), name, clusterSize);
  if (bytes === undefined) throw noRoom();
  const nameOffset = name.length === 0 ? 0 : view.u64be(BACKING_FILE, "backing file name offset");
  const isLive = (from: number, end: number): boolean =>
    from < extensions.end || (from < nameOffset + name.length && nameOffset < end);
  if (bytes.length > SECTOR_SIZE) {
    if (isLive(SECTOR_SIZE, bytes.length)) {
      const between = { fields: view.bytes.slice(0, header.headerLength), extensions: extensions.list };
      const free = Math.max(bytes.length, extensions.end, nameOffset + name.length);
      yield* writeBetween(file, withoutNames(between), name, free, clusterSize);
    }
    yield* file.write(SECTOR_SIZE, IoVector.of(bytes.subarray(SECTOR_SIZE)));
    yield* file.flush();
  }
  yield* file.write(0, IoVector.of(bytes.subarray(0, SECTOR_SIZE)));
  yield* file.flush();
  return yield* readHeader(file);
}

/** A header whose extensions end in the first sector, and whose backing file's name stands at `nameOffset`. */
function* writeBetween(
  file: BlockNode,
  between: NewHead,
  name: Uint8Array,
  nameOffset: number,
  clusterSize: number,
): Co<void> {
  const sector = new ByteView(new Uint8Array(SECTOR_SIZE));
  const { fields, extensions } = between;
  const fits = fields.length + extensionsLength(extensions) <= SECTOR_SIZE && nameOffset + name.length <= clusterSize;
  if (!fits) throw noRoom();
  sector.bytes.set(fields);
  writeExtensions(sector, fields.length, extensions);
  if (name.length > 0) {
    sector.setU64be(BACKING_FILE, nameOffset);
    yield* file.write(nameOffset, IoVector.of(name));
    yield* file.flush();
  }
  yield* file.write(0, IoVector.of(sector.bytes));
  yield* file.flush();
}

/** Header, extensions and, behind them, the name; at least one sector. Undefined when a cluster is too short for them. */
function headBytes({ fields, extensions }: NewHead, name: Uint8Array, clusterSize: number): Uint8Array | undefined {
  const nameOffset = fields.length + extensionsLength(extensions);
  const length = nameOffset + name.length;
  if (length > clusterSize) return undefined;
  const view = new ByteView(new Uint8Array(Math.max(SECTOR_SIZE, length)));
  view.bytes.set(fields);
  writeExtensions(view, fields.length, extensions);
  view.setU64be(BACKING_FILE, name.length === 0 ? 0 : nameOffset);
  view.setU32be(BACKING_FILE + 8, name.length);
  view.bytes.set(name, nameOffset);
  return view.bytes;
}

function withoutNames({ fields, extensions }: NewHead): NewHead {
  return { fields, extensions: extensions.filter(({ type }) => type !== EXTENSION_FEATURE_NAMES) };
}

function noRoom(): BlockError {
  return new BlockError("EINVAL", "the header has no room for its extensions");
}
