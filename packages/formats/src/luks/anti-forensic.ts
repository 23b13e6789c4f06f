/**
 * The anti-forensic splitting of LUKS (on-disk format specification, section 2.4): a key is spread over thousands of
 * stripes, all of which are needed to have it back, so that it is enough for a disk to forget one of them.
 */
import { ByteView, type RandomSource } from "@spindle/base";
import type { Cryptography, HashName } from "@spindle/block";
import { DIGEST_BYTES } from "./algorithms.ts";
import { randomBytes } from "./random-bytes.ts";

/** What is needed of the host: its hashes. */
type Hashes = Pick<Cryptography, "hash">;

/** The key that was split. @param split whole stripes, each as long as the key */
export function mergeStripes(hashes: Hashes, hash: HashName, split: Uint8Array, keyBytes: number): Uint8Array {
  const last = split.length - keyBytes;
  const sum = diffusedSum(hashes, hash, split.subarray(0, last), keyBytes);
  return mixed(sum, split.subarray(last));
}

/** The key in so many stripes, of which all but the last are random. */
export function splitIntoStripes(
  hashes: Hashes,
  hash: HashName,
  key: Uint8Array,
  { stripes, random }: { readonly stripes: number; readonly random: RandomSource },
): Uint8Array {
  const split = new Uint8Array(key.length * stripes);
  const last = split.length - key.length;
  split.set(randomBytes(random, last));
  split.set(mixed(diffusedSum(hashes, hash, split.subarray(0, last), key.length), key), last);
  return split;
}

/** All stripes mixed into one, which is diffused after each. */
function diffusedSum(hashes: Hashes, hash: HashName, stripes: Uint8Array, keyBytes: number): Uint8Array {
  let sum: Uint8Array = new Uint8Array(keyBytes);
  for (let at = 0; at < stripes.length; at += keyBytes)
    sum = diffuse(hashes, hash, mixed(sum, stripes.subarray(at, at + keyBytes)));
  return sum;
}

/** Replaces each piece, as long as a digest, by the digest of its number and itself; the last one may be cut. */
function diffuse(hashes: Hashes, hash: HashName, block: Uint8Array): Uint8Array {
  const result = new Uint8Array(block.length);
  const step = DIGEST_BYTES[hash];
  for (let at = 0, index = 0; at < block.length; index++, at += step) {
    const piece = block.subarray(at, at + step);
    const numbered = new ByteView(new Uint8Array(4 + piece.length));
    numbered.setU32be(0, index);
    numbered.bytes.set(piece, 4);
    result.set(hashes.hash(hash, numbered.bytes).subarray(0, piece.length), at);
  }
  return result;
}

function mixed(one: Uint8Array, other: Uint8Array): Uint8Array {
  return one.map((byte, index) => byte ^ (other[index] as number));
}
