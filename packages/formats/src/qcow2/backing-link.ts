/**
 * Changes the backing file that an image names, so that a crash leaves the old name or the new one: a new name is
 * written where no name stands, and then one sector of the header points at it.
 */
import { BlockError, ByteView, type Co, encodeUtf8 } from "@spindle/base";
import { type BackingFile, type BlockNode, IoVector } from "@spindle/block";
import { EXTENSION_BACKING_FORMAT, EXTENSION_END, type Qcow2Header } from "./header.ts";

/** Offset and length of the backing file's name: 12 bytes of the header's first sector. */
const HEADER_BACKING_FILE = 8;

/** Forgets the backing file with one write of 12 bytes, durable when it ends. */
export function* dropBackingFile(file: BlockNode): Co<void> {
  // What was written before must be durable before the image says that it stands alone.
  yield* file.flush();
  yield* file.write(HEADER_BACKING_FILE, IoVector.of(new Uint8Array(12)));
  yield* file.flush();
}

/** @throws {BlockError} EINVAL when the name does not fit into the image's first cluster; nothing was changed. */
export function* renameBackingFile(file: BlockNode, header: Qcow2Header, backing: BackingFile): Co<void> {
  const clusterSize = 2 ** header.clusterBits;
  const head = new Uint8Array(clusterSize);
  yield* file.read(0, IoVector.of(head.subarray(0, file.length)));
  const view = new ByteView(head);
  const name = encodeUtf8(backing.filename);
  const nameOffset = placeForName(view, header, name.length, clusterSize);
  if (nameOffset === undefined || name.length > 1023)
    throw new BlockError("EINVAL", `Backing file name '${backing.filename}' is too long`);
  yield* file.write(nameOffset, IoVector.of(name));
  yield* file.flush();
  // The name, or its beginning, may stand in the sector that is written next.
  head.set(name, nameOffset);
  const sector = new ByteView(head.slice(0, 512));
  sector.setU64be(HEADER_BACKING_FILE, nameOffset);
  sector.setU32be(HEADER_BACKING_FILE + 8, name.length);
  writeFormat(sector, header, backing.format);
  yield* file.write(0, IoVector.of(sector.bytes));
  yield* file.flush();
}

/** Behind the extensions, where the old name does not stand. */
function placeForName(view: ByteView, header: Qcow2Header, length: number, clusterSize: number): number | undefined {
  const oldOffset = view.u64be(8, "backing file name offset");
  const oldEnd = oldOffset === 0 ? 0 : oldOffset + view.u32be(16);
  const first = header.extensionsEnd;
  if (oldOffset === 0 || first + length <= oldOffset) return first + length <= clusterSize ? first : undefined;
  const behind = Math.max(first, oldEnd);
  return behind + length <= clusterSize ? behind : undefined;
}

/**
 * Overwrites the backing format where it stands, padded within its extension. Without such an extension, or when the
 * format does not fit, the format is left to probing.
 */
function writeFormat(sector: ByteView, header: Qcow2Header, format: string | null): void {
  for (let at = header.headerLength; at + 8 <= sector.length; ) {
    const type = sector.u32be(at);
    const length = sector.u32be(at + 4);
    if (type === EXTENSION_END) return;
    const room = Math.ceil(length / 8) * 8;
    if (type === EXTENSION_BACKING_FORMAT) {
      const bytes = encodeUtf8(format ?? "");
      // An extension's data is padded to eight bytes, so a name of another length fits as long as the padded one does.
      if (Math.ceil(bytes.length / 8) * 8 !== room || at + 8 + room > sector.length) return;
      sector.setU32be(at + 4, bytes.length);
      sector.bytes.fill(0, at + 8, at + 8 + room);
      sector.bytes.set(bytes, at + 8);
      return;
    }
    at += 8 + room;
  }
}
