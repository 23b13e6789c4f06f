/** Lets the header point at another directory of persistent bitmaps, or at none. */
import { ByteView, type Co, SECTOR_SIZE } from "@spindle/base";
import { type BlockNode, IoVector } from "@spindle/block";
import { type BitmapDirectoryPlace, bitmapExtensionBytes } from "./bitmap-directory.ts";
import { EXTENSION_BITMAPS, EXTENSION_FEATURE_NAMES, QCOW2_AUTOCLEAR_BITMAPS, type Qcow2Header } from "./header.ts";
import { extensionsLength, type HeaderExtension } from "./header-extensions.ts";
import { readHead } from "./read-header.ts";
import { rewriteHead } from "./rewrite-head.ts";

const HEADER_AUTOCLEAR = 88;

/**
 * Durable when it ends. A crash leaves the directory of before or the new one.
 * @returns the header as the file has it now
 * @throws {BlockError} EINVAL when the header's cluster has no room for the extension; nothing was changed.
 */
export function* writeBitmapExtension(
  file: BlockNode,
  header: Qcow2Header,
  place: BitmapDirectoryPlace | null,
): Co<Qcow2Header> {
  const { view, extensions } = yield* readHead(file, header);
  const { list } = extensions;
  const index = list.findIndex(({ type }) => type === EXTENSION_BITMAPS);
  const isSet = (header.autoclear & QCOW2_AUTOCLEAR_BITMAPS) !== 0n;
  const data = place === null ? null : bitmapExtensionBytes(place);
  if (index >= 0 && isSet && data !== null) {
    const at = header.headerLength + extensionsLength(list.slice(0, index));
    const inOneSector = Math.floor(at / SECTOR_SIZE) === Math.floor((at + data.length - 1) / SECTOR_SIZE);
    if (inOneSector && list[index]?.data.length === data.length) {
      yield* file.write(at, IoVector.of(data));
      yield* file.flush();
      return { ...header, bitmapExtension: data };
    }
  }
  const fields = new ByteView(view.bytes.slice(0, header.headerLength));
  const others = header.autoclear & ~QCOW2_AUTOCLEAR_BITMAPS;
  fields.setBigU64be(HEADER_AUTOCLEAR, data === null ? others : others | QCOW2_AUTOCLEAR_BITMAPS);
  return yield* rewriteHead(file, header, { fields: fields.bytes, extensions: withBitmaps(list, data) });
}

/** The extension's place is behind the names of features, as in QEMU. */
function withBitmaps(list: readonly HeaderExtension[], data: Uint8Array | null): HeaderExtension[] {
  const others = list.filter(({ type }) => type !== EXTENSION_BITMAPS);
  if (data === null) return others;
  const names = others.findIndex(({ type }) => type === EXTENSION_FEATURE_NAMES);
  const at = names < 0 ? others.length : names + 1;
  return [...others.slice(0, at), { type: EXTENSION_BITMAPS, data }, ...others.slice(at)];
}
