/** What the host hands to the pure packages: time, randomness, codecs. */
import type { Clock, RandomSource } from "@spindle/base";

export interface Codecs {
  /**
   * Inflates one raw deflate stream (RFC 1951; bytes after its end are ignored) into exactly `output.length` bytes.
   * @throws {BlockError} EIO when the stream is malformed or does not give exactly that many bytes. Never produces more.
   */
  inflateRaw(input: Uint8Array, output: Uint8Array): void;
  /** The same for one zstd frame (RFC 8878). */
  decompressZstd(input: Uint8Array, output: Uint8Array): void;
}

export interface Environment {
  readonly clock: Clock;
  readonly random: RandomSource;
  readonly codecs: Codecs;
}
