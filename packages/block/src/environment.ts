/** What the host hands to the pure packages: time, randomness, codecs. */
import type { Clock, RandomSource } from "@spindle/base";

export interface Codecs {
  /**
   * Inflates one raw deflate stream (RFC 1951; bytes after its end are ignored) into exactly `output.length` bytes.
   * @throws {BlockError} EIO when the stream is malformed or does not give exactly that many bytes. Never produces more.
   */
  inflateRaw(input: Uint8Array, output: Uint8Array): void;
  /** Deflates into one raw stream whose window is at most 4 KiB (12 bits), as qcow2 wants it. */
  deflateRaw(input: Uint8Array): Uint8Array;
  /**
   * Compresses into one zstd frame.
   * @throws {BlockError} ENOTSUP where the host has no zstd to compress with.
   */
  compressZstd(input: Uint8Array): Uint8Array;
  /** Inflates one zstd frame (RFC 8878) in the same way. */
  decompressZstd(input: Uint8Array, output: Uint8Array): void;
}

export interface Environment {
  readonly clock: Clock;
  readonly random: RandomSource;
  readonly codecs: Codecs;
}
