/**
 * Changes the backing file that an image names. Each change is one write inside of the header's first sector, which a disk
 * writes whole or not at all, so that a crash leaves the old name or the new one.
 */
import { BlockError, ByteView, type Co, encodeUtf8, SECTOR_SIZE } from "@spindle/base";
import { type BackingFile, type BlockNode, IoVector } from "@spindle/block";
import { EXTENSION_BACKING_FORMAT, EXTENSION_FEATURE_NAMES, type Qcow2Header } from "./header.ts";
import {
  backingFormatExtension,
  extensionsLength,
  type HeaderExtension,
  type HeaderExtensions,
  trimFeatureNames,
  writeExtensions,
} from "./header-extensions.ts";
import { readHead } from "./read-header.ts";

/** Offset and, behind it, length of the backing file's name: 12 bytes of the header's first sector. */
const BACKING_FILE = 8;
const BACKING_NAME_BYTES_MAX = 1023;

/** Forgets the backing file, durable when it ends. */
export function* dropBackingFile(file: BlockNode, header: Qcow2Header): Co<void> {
  // What was written before must be durable before the image says that it stands alone.
  yield* file.flush();
  const { view, extensions } = yield* readHead(file, header);
  if (extensions.hasEndMark) yield* file.write(BACKING_FILE, IoVector.of(new Uint8Array(12)));
  else {
    // The name has ended the extensions so far: without it they need their end mark.
    const list = extensionsFor(header, extensions, header.backingFormat, header.backingFile ?? "");
    const sector = sectorWith(view, header, list);
    sector.bytes.fill(0, BACKING_FILE, BACKING_FILE + 12);
    yield* file.write(0, IoVector.of(sector.bytes));
  }
  yield* file.flush();
}

/**
 * Names another backing file, durable when it ends. A name that does not fit into the first sector is written behind it
 * first, where the old header sees nothing.
 * @throws {BlockError} EINVAL when the name, or what else the header holds, leaves no room; nothing was changed.
 */
export function* renameBackingFile(file: BlockNode, header: Qcow2Header, backing: BackingFile): Co<void> {
  const { view, extensions } = yield* readHead(file, header);
  const name = encodeUtf8(backing.filename);
  const list = extensionsFor(header, extensions, backing.format, backing.filename);
  const sector = sectorWith(view, header, list);
  const end = header.headerLength + extensionsLength(list);
  const fits = end + name.length <= SECTOR_SIZE;
  const nameOffset = fits ? end : placeBehindSector(view, header, extensions, name.length);
  if (nameOffset === undefined || name.length > BACKING_NAME_BYTES_MAX) throw tooLong(backing.filename);
  if (fits) sector.bytes.set(name, nameOffset);
  else {
    yield* file.write(nameOffset, IoVector.of(name));
    yield* file.flush();
  }
  sector.setU64be(BACKING_FILE, nameOffset);
  sector.setU32be(BACKING_FILE + 8, name.length);
  yield* file.write(0, IoVector.of(sector.bytes));
  yield* file.flush();
}

/** The first sector with the header's fields as they are, and with these extensions. */
function sectorWith(view: ByteView, header: Qcow2Header, list: readonly HeaderExtension[]): ByteView {
  const sector = new ByteView(new Uint8Array(SECTOR_SIZE));
  sector.bytes.set(view.bytes.subarray(0, header.headerLength));
  writeExtensions(sector, header.headerLength, list);
  return sector;
}

/** The image's extensions with another backing format, inside of the first sector. Names of features give way first. */
function extensionsFor(
  header: Qcow2Header,
  extensions: HeaderExtensions,
  format: string | null,
  filename: string,
): HeaderExtension[] {
  const others = extensions.list.filter(
    ({ type }) => type !== EXTENSION_BACKING_FORMAT && type !== EXTENSION_FEATURE_NAMES,
  );
  const kept = format === null ? others : [backingFormatExtension(format), ...others];
  const room = SECTOR_SIZE - header.headerLength - extensionsLength(kept);
  if (room < 0) throw tooLong(filename);
  const names = extensions.list.find(({ type }) => type === EXTENSION_FEATURE_NAMES);
  const trimmed = names === undefined ? undefined : trimFeatureNames(names, room);
  return trimmed === undefined ? kept : [...kept, trimmed];
}

/** Room in the first cluster behind its first sector where neither extensions nor the old name stand. */
function placeBehindSector(
  view: ByteView,
  header: Qcow2Header,
  extensions: HeaderExtensions,
  length: number,
): number | undefined {
  const clusterSize = 2 ** header.clusterBits;
  const oldOffset = view.u64be(BACKING_FILE, "backing file name offset");
  const oldEnd = oldOffset === 0 ? 0 : oldOffset + view.u32be(BACKING_FILE + 8);
  const first = Math.max(SECTOR_SIZE, extensions.end);
  if (first + length <= oldOffset) return first;
  const behind = Math.max(first, oldEnd);
  return behind + length <= clusterSize ? behind : undefined;
}

function tooLong(filename: string): BlockError {
  return new BlockError("EINVAL", `Backing file name '${filename}' is too long`);
}
