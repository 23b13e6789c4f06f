/** Reads an image's header from its file: the record for opening it, and the bytes with their extensions for changing it. */
import { ByteView, type Co } from "@spindle/base";
import { type BlockNode, IoVector } from "@spindle/block";
import { parseHeader, type Qcow2Header } from "./header.ts";
import { type HeaderExtensions, parseExtensions } from "./header-extensions.ts";
import { readPadded } from "./padded-read.ts";

const BACKING_FILE_OFFSET = 8;

/**
 * @param forCheck reads what only a repair can mend, too
 * @throws {BlockError} as `parseHeader` does.
 */
export function* readHeader(file: BlockNode, forCheck = false): Co<Qcow2Header> {
  const first = new Uint8Array(Math.min(512, file.length));
  yield* file.read(0, IoVector.of(first));
  const clusterBits = first.length >= 24 ? new DataView(first.buffer).getUint32(20) : 0;
  // A cluster size that cannot be is told by the parser.
  const clusterSize = clusterBits >= 9 && clusterBits <= 21 ? 2 ** clusterBits : 512;
  const bytes = new Uint8Array(Math.min(clusterSize, file.length));
  yield* file.read(0, IoVector.of(bytes));
  return parseHeader(bytes, forCheck);
}

/** The header's first cluster, and the extensions in it. */
export function* readHead(
  file: BlockNode,
  header: Qcow2Header,
): Co<{ readonly view: ByteView; readonly extensions: HeaderExtensions }> {
  const view = new ByteView(new Uint8Array(2 ** header.clusterBits));
  yield* readPadded(file, 0, view.bytes);
  const nameOffset = view.u64be(BACKING_FILE_OFFSET, "backing file name offset");
  const limit = nameOffset === 0 ? view.length : Math.min(view.length, nameOffset);
  return { view, extensions: parseExtensions(view, header.headerLength, limit) };
}
