/** Decompresses the LZ4 "legacy" frame in which Debian packs its cloud kernel: a magic number, then blocks with their length. */

export const LZ4_LEGACY_MAGIC = 0x184c2102;

/** Bytes that one block gives at most. */
const BLOCK_BYTES_MAX: number = 8 * 2 ** 20;

export function decompressLz4(frame: Buffer): Buffer {
  const blocks: Buffer[] = [];
  let at = 4;
  while (at + 4 <= frame.length) {
    const length = frame.readUInt32LE(at);
    at += 4;
    if (length === LZ4_LEGACY_MAGIC) continue;
    // The frame may be followed by something else.
    if (length === 0 || at + length > frame.length) break;
    blocks.push(decompressBlock(frame.subarray(at, at + length)));
    at += length;
  }
  return Buffer.concat(blocks);
}

/** One block: sequences of literals and of matches that lie at most 64 KiB before. */
function decompressBlock(block: Buffer): Buffer {
  const output = Buffer.allocUnsafe(BLOCK_BYTES_MAX);
  let at = 0;
  let written = 0;
  const more = (nibble: number): number => {
    let length = nibble;
    if (nibble === 15) {
      let byte = 255;
      while (byte === 255) {
        byte = block[at++] as number;
        length += byte;
      }
    }
    return length;
  };
  while (at < block.length) {
    const token = block[at++] as number;
    const literals = more(token >> 4);
    block.copy(output, written, at, at + literals);
    at += literals;
    written += literals;
    if (at >= block.length) break;
    const distance = block.readUInt16LE(at);
    at += 2;
    const length = more(token & 15) + 4;
    const from = written - distance;
    // A match may run into what it writes itself.
    for (let index = 0; index < length; index++) output[written + index] = output[from + index] as number;
    written += length;
  }
  return output.subarray(0, written);
}
