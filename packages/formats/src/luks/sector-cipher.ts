/**
 * Encrypts and decrypts whole sectors of 512 bytes: XTS (IEEE 1619) and CBC, with the initial vectors that LUKS and
 * dm-crypt derive from a sector's number. All sectors of a request go through the block cipher in few calls, because a
 * call costs more than a sector's AES.
 */
import { alignUp, assert } from "@spindle/base";
import type { BlockCipher, Cryptography, HashName } from "@spindle/block";

export const CIPHER_SECTOR = 512;

const BLOCK = 16;
const BLOCKS_PER_SECTOR = CIPHER_SECTOR / BLOCK;

export type CipherMode = "xts" | "cbc";
/** The sector's number in 32 bits, in 64 bits, or in 64 bits and encrypted with the key's hash. */
export type IvGenerator = "plain" | "plain64" | "essiv";

export interface CipherSpec {
  readonly mode: CipherMode;
  readonly ivGenerator: IvGenerator;
  /** For `essiv`: its digest is as long as a key of AES. */
  readonly ivHash: HashName | undefined;
}

export class SectorCipher {
  readonly #mode: CipherMode;
  readonly #data: BlockCipher;
  /** The second half of an XTS key. */
  readonly #tweak: BlockCipher | undefined;
  readonly #generator: IvGenerator;
  readonly #essiv: BlockCipher | undefined;

  /** @param key for XTS two keys of AES, one behind the other */
  constructor(cryptography: Cryptography, { mode, ivGenerator, ivHash }: CipherSpec, key: Uint8Array) {
    const half = key.length / 2;
    this.#mode = mode;
    this.#data = cryptography.aes(mode === "xts" ? key.subarray(0, half) : key);
    this.#tweak = mode === "xts" ? cryptography.aes(key.subarray(half)) : undefined;
    this.#generator = ivGenerator;
    if (ivGenerator !== "essiv") return;
    assert(ivHash !== undefined, "essiv has a hash");
    this.#essiv = cryptography.aes(cryptography.hash(ivHash, key));
  }

  /** @param sector the number of the first sector. @returns as many bytes; the input, whole sectors, is left as it is. */
  encrypt(sector: number, plain: Uint8Array): Uint8Array {
    const ivs = this.#initialVectors(sector, sectorsOf(plain));
    if (this.#tweak === undefined) return this.#encryptChained(ivs, plain);
    const tweaks = tweakBlocks(this.#tweak.encrypt(ivs));
    return xored(this.#data.encrypt(xored(plain, tweaks)), tweaks);
  }

  decrypt(sector: number, cipher: Uint8Array): Uint8Array {
    const ivs = this.#initialVectors(sector, sectorsOf(cipher));
    if (this.#tweak === undefined) return xored(this.#data.decrypt(cipher), previousBlocks(ivs, cipher));
    const tweaks = tweakBlocks(this.#tweak.encrypt(ivs));
    return xored(this.#data.decrypt(xored(cipher, tweaks)), tweaks);
  }

  /** CBC: a block waits for the one before it, so the same block of all sectors goes in one call. */
  #encryptChained(ivs: Uint8Array, plain: Uint8Array): Uint8Array {
    const count = sectorsOf(plain);
    const cipher = new Uint8Array(plain.length);
    const column = new Uint8Array(count * BLOCK);
    let before = ivs;
    for (let block = 0; block < BLOCKS_PER_SECTOR; block++) {
      for (let index = 0; index < count; index++) {
        const at = index * CIPHER_SECTOR + block * BLOCK;
        column.set(plain.subarray(at, at + BLOCK), index * BLOCK);
      }
      before = this.#data.encrypt(xored(column, before));
      for (let index = 0; index < count; index++)
        cipher.set(before.subarray(index * BLOCK, (index + 1) * BLOCK), index * CIPHER_SECTOR + block * BLOCK);
    }
    assert(this.#mode === "cbc", "two modes are known");
    return cipher;
  }

  /** 16 bytes for each sector. */
  #initialVectors(first: number, count: number): Uint8Array {
    const ivs = new Uint8Array(count * BLOCK);
    const view = new DataView(ivs.buffer);
    for (let index = 0; index < count; index++) {
      const sector = first + index;
      view.setUint32(index * BLOCK, sector % 2 ** 32, true);
      if (this.#generator !== "plain") view.setUint32(index * BLOCK + 4, Math.floor(sector / 2 ** 32), true);
    }
    return this.#essiv === undefined ? ivs : this.#essiv.encrypt(ivs);
  }
}

/**
 * The tweak of every block: in each sector the first is given, and the next is the one before it times x in GF(2^128),
 * with the polynomial x^128 + x^7 + x^2 + x + 1, least significant byte first.
 */
function tweakBlocks(firsts: Uint8Array): Uint8Array {
  const count = firsts.length / BLOCK;
  const tweaks = new Uint8Array(count * CIPHER_SECTOR);
  const from = new DataView(firsts.buffer, firsts.byteOffset, firsts.byteLength);
  const to = new DataView(tweaks.buffer);
  for (let sector = 0; sector < count; sector++) {
    let a = from.getUint32(sector * BLOCK, true);
    let b = from.getUint32(sector * BLOCK + 4, true);
    let c = from.getUint32(sector * BLOCK + 8, true);
    let d = from.getUint32(sector * BLOCK + 12, true);
    const end = (sector + 1) * CIPHER_SECTOR;
    for (let at = sector * CIPHER_SECTOR; at < end; at += BLOCK) {
      to.setUint32(at, a, true);
      to.setUint32(at + 4, b, true);
      to.setUint32(at + 8, c, true);
      to.setUint32(at + 12, d, true);
      const carry = d >>> 31;
      d = (d << 1) | (c >>> 31);
      c = (c << 1) | (b >>> 31);
      b = (b << 1) | (a >>> 31);
      a = (a << 1) ^ (carry * 0x87);
    }
  }
  return tweaks;
}

/** What each block of CBC was mixed with: the block before it, and in each sector's first block the initial vector. */
function previousBlocks(ivs: Uint8Array, cipher: Uint8Array): Uint8Array {
  const previous = new Uint8Array(cipher.length);
  previous.set(cipher.subarray(0, cipher.length - BLOCK), BLOCK);
  for (let index = 0; index < sectorsOf(cipher); index++)
    previous.set(ivs.subarray(index * BLOCK, (index + 1) * BLOCK), index * CIPHER_SECTOR);
  return previous;
}

/** Whole blocks, word by word. */
function xored(one: Uint8Array, other: Uint8Array): Uint8Array {
  const result = wordsOf(one);
  const words = wordsOf(other);
  for (let index = 0; index < result.length; index++)
    result[index] = (result[index] as number) ^ (words[index] as number);
  return new Uint8Array(result.buffer);
}

/** A copy, so that the words are aligned. */
function wordsOf(bytes: Uint8Array): Uint32Array<ArrayBuffer> {
  const words = new Uint32Array(alignUp(bytes.length, 4) / 4);
  new Uint8Array(words.buffer).set(bytes);
  return words;
}

function sectorsOf(bytes: Uint8Array): number {
  assert(bytes.length > 0 && bytes.length % CIPHER_SECTOR === 0, "whole sectors are encrypted");
  return bytes.length / CIPHER_SECTOR;
}
