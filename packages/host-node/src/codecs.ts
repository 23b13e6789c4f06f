/**
 * Codecs for compressed clusters. The output's length is known beforehand and is a hard limit: whatever a hostile
 * image says, no more memory is taken and nothing but a BlockError comes out.
 */
import { BlockError } from "@spindle/base";
import type { Codecs } from "@spindle/block";
import { STABLE_BYTES_MIN } from "./koffi-library.ts";
import { zstdLibrary } from "./zstd-library.ts";

/** What zlib may ask for at most while it compresses a cluster, so that the result comes in one piece. */
const PIECE_SLACK_BYTES = 1024;

type CompressSync = (input: Uint8Array, options: { chunkSize: number; pledgedSrcSize: number }) => Uint8Array;
type DecompressSync = (input: Uint8Array, options: { maxOutputLength: number }) => Uint8Array;

/** zlib with zstd, which Node has from 22.15 on; the oldest Node that is supported has not. */
type Zlib = typeof import("node:zlib") & { zstdCompressSync?: CompressSync; zstdDecompressSync?: DecompressSync };

/** Loaded by the first who needs it, because most commands do not. */
function zlib(): Zlib {
  return process.getBuiltinModule("node:zlib");
}

/** The codecs with zstd in JavaScript: what {@link nodeCodecs} does where zlib has no zstd. */
export const portableCodecs: Codecs = {
  inflateRaw: (input, output) => decompress("deflate", zlib().inflateRawSync, input, output),
  deflateRaw: (input) =>
    zlib().deflateRawSync(input, { windowBits: 12, memLevel: 9, chunkSize: input.length + PIECE_SLACK_BYTES }),
  compressZstd(): Uint8Array {
    throw new BlockError("ENOTSUP", "compressing with zstd needs Node 22.15 or newer");
  },
  decompressZstd: decompressZstdPortably,
};

export const nodeCodecs: Codecs = {
  ...portableCodecs,
  compressZstd(input) {
    const direct = input.length < STABLE_BYTES_MIN ? null : zstdLibrary();
    if (direct !== null) return direct(input);
    const { zstdCompressSync } = zlib();
    if (zstdCompressSync === undefined) return portableCodecs.compressZstd(input);
    return zstdCompressSync(input, { chunkSize: input.length + PIECE_SLACK_BYTES, pledgedSrcSize: input.length });
  },
  decompressZstd(input, output) {
    const { zstdDecompressSync } = zlib();
    if (zstdDecompressSync === undefined) portableCodecs.decompressZstd(input, output);
    else decompress("zstd", zstdDecompressSync, input, output);
  },
};

function decompress(codec: string, call: DecompressSync, input: Uint8Array, output: Uint8Array): void {
  let bytes: Uint8Array;
  try {
    bytes = call(input, { maxOutputLength: Math.max(1, output.length) });
  } catch (error) {
    throw malformed(codec, input, output, error);
  }
  if (bytes.length !== output.length) throw malformed(codec, input, output);
  output.set(bytes);
}

/** Streams through fzstd, so that a frame that gives too much is stopped at the first piece beyond the limit. */
function decompressZstdPortably(input: Uint8Array, output: Uint8Array): void {
  const { Decompress } = process.getBuiltinModule("node:module").createRequire(import.meta.url)(
    "fzstd",
  ) as typeof import("fzstd");
  let length = 0;
  let ended = false;
  try {
    checkWindow(input, output.length);
    const stream = new Decompress((piece, last) => {
      // Throws when the piece does not fit.
      output.set(piece, length);
      length += piece.length;
      ended = last === true;
    });
    stream.push(input, true);
  } catch (error) {
    throw malformed("zstd", input, output, error);
  }
  if (!ended || length !== output.length) throw malformed("zstd", input, output);
}

/** Larger windows are refused by the reference decoder too, unless it is told otherwise. */
const WINDOW_BYTES_MAX: number = 128 * 1024 * 1024;

/**
 * Refuses a frame whose header (RFC 8878, section 3.1.1.1) asks for more memory than its output needs: fzstd takes the
 * window at once, and a frame of a single segment has a window as long as its content.
 */
function checkWindow(frame: Uint8Array, outputLength: number): void {
  const descriptor = frame[4] ?? 0;
  const isSingleSegment = (descriptor & 0x20) !== 0;
  if (isSingleSegment) {
    if (contentSize(frame, descriptor) > outputLength) throw new RangeError("the frame gives more than it should");
    return;
  }
  const byte = frame[5] ?? 0;
  const base = 2 ** (10 + (byte >> 3));
  if (base + (base / 8) * (byte & 7) > WINDOW_BYTES_MAX) throw new RangeError("the frame asks for too large a window");
}

/** The content size of a single-segment frame. */
function contentSize(frame: Uint8Array, descriptor: number): number {
  const at = 5 + ([0, 1, 2, 4][descriptor & 3] as number);
  const width = [1, 2, 4, 8][descriptor >> 6] as number;
  let size = 0;
  for (let index = width - 1; index >= 0; index--) size = size * 256 + (frame[at + index] ?? 0);
  return width === 2 ? size + 256 : size;
}

function malformed(codec: string, input: Uint8Array, output: Uint8Array, cause?: unknown): BlockError {
  const message = `compressed data (${codec}, ${input.length} bytes) does not give exactly ${output.length} bytes`;
  return new BlockError("EIO", message, { corrupt: true }, cause);
}
