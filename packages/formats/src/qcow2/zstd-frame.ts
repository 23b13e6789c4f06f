/**
 * How long one zstd frame is (RFC 8878, section 3.1.1): decoders refuse what follows a frame, and a compressed cluster is
 * followed by whatever fills its last sector.
 */
import { BlockError, ByteView } from "@spindle/base";

const ZSTD_MAGIC = 0xfd2fb528;
const RAW_BLOCK = 0;
const RLE_BLOCK = 1;
const COMPRESSED_BLOCK = 2;

/** @throws {BlockError} EIO when the bytes do not begin with a whole frame. */
export function zstdFrameLength(bytes: Uint8Array): number {
  const view = new ByteView(bytes);
  if (bytes.length < 6 || view.u32le(0) !== ZSTD_MAGIC) throw malformed();
  const descriptor = view.u8(4);
  const singleSegment = (descriptor & 0x20) !== 0;
  const contentSizeFlag = descriptor >> 6;
  const dictionaryBytes = [0, 1, 2, 4][descriptor & 3] as number;
  const contentSizeBytes = contentSizeFlag === 0 ? (singleSegment ? 1 : 0) : 2 ** contentSizeFlag;
  let at = 5 + (singleSegment ? 0 : 1) + dictionaryBytes + contentSizeBytes;
  for (let last = false; !last; ) {
    if (at + 3 > bytes.length) throw malformed();
    const header = view.u8(at) + view.u8(at + 1) * 256 + view.u8(at + 2) * 65_536;
    last = (header & 1) === 1;
    const type = (header >> 1) & 3;
    const size = header >> 3;
    if (type !== RAW_BLOCK && type !== RLE_BLOCK && type !== COMPRESSED_BLOCK) throw malformed();
    at += 3 + (type === RLE_BLOCK ? 1 : size);
  }
  const end = at + ((descriptor & 4) === 0 ? 0 : 4);
  if (end > bytes.length) throw malformed();
  return end;
}

function malformed(): BlockError {
  return new BlockError("EIO", "a compressed cluster is not a zstd frame", { corrupt: true });
}
