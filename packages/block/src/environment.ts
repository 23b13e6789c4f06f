/** What the host hands to the pure packages: time, randomness, codecs, ciphers, secrets. */
import type { Clock, Co, RandomSource } from "@spindle/base";
import type { SecretStore } from "./secret-store.ts";

export interface Codecs {
  /**
   * Inflates one raw deflate stream (RFC 1951; bytes after its end are ignored) into exactly `output.length` bytes.
   * @throws {BlockError} EIO when the stream is malformed or does not give exactly that many bytes. Never produces more.
   */
  inflateRaw(input: Uint8Array, output: Uint8Array): void;
  /** Deflates into one raw stream whose window is at most 4 KiB (12 bits), as qcow2 wants it. */
  deflateRaw(input: Uint8Array): Uint8Array;
  /**
   * Compresses into one zstd frame, which is valid until the next call.
   * @throws {BlockError} ENOTSUP where the host has no zstd to compress with.
   */
  compressZstd(input: Uint8Array): Uint8Array;
  /** Inflates one zstd frame (RFC 8878) in the same way. */
  decompressZstd(input: Uint8Array, output: Uint8Array): void;
}

/** A block cipher with its key: blocks of 16 bytes, each by itself. Inputs are whole blocks, and are not changed. */
export interface BlockCipher {
  encrypt(blocks: Uint8Array): Uint8Array;
  decrypt(blocks: Uint8Array): Uint8Array;
}

export type HashName = "md5" | "ripemd160" | "sha1" | "sha224" | "sha256" | "sha384" | "sha512";

/** What PBKDF2 (RFC 8018, section 5.2) takes. */
export interface KeyDerivation {
  readonly hash: HashName;
  readonly password: Uint8Array;
  readonly salt: Uint8Array;
  /** 1 to 2^31 - 1. */
  readonly iterations: number;
  /** Bytes of the key. */
  readonly length: number;
}

export interface Cryptography {
  /** AES with a key of 16, 24 or 32 bytes. */
  aes(key: Uint8Array): BlockCipher;
  hash(name: HashName, data: Uint8Array): Uint8Array;
  /** Derives a key from a password, beside other work of the thread where its runner has any. */
  deriveKey(derivation: KeyDerivation): Co<Uint8Array>;
}

export interface Environment {
  readonly clock: Clock;
  /** For keys and salts too: hosts whose images are encrypted give numbers that nobody can guess. */
  readonly random: RandomSource;
  readonly codecs: Codecs;
  /** Absent where the host has none: encrypted images are refused then. */
  readonly cryptography?: Cryptography;
  /** Absent where nobody can give any. */
  readonly secrets?: SecretStore;
  /**
   * Tells the user what is no error, in QEMU's words; absent where nobody listens.
   * @param hint what can be done
   */
  readonly warn?: (sentence: string, hint: string) => void;
}
