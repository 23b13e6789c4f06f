import { createCipheriv, createHash } from "node:crypto";
import { SeededRandom } from "@spindle/base";
import { nodeCryptography } from "@spindle/host-node";
import { forEachSeed, randomBytes } from "@spindle/testkit";
import { expect, it } from "vitest";
import { mergeStripes, splitIntoStripes } from "../src/luks/anti-forensic.ts";
import { type CipherSpec, SectorCipher } from "../src/luks/sector-cipher.ts";

const SPECS: readonly CipherSpec[] = (["xts", "cbc"] as const).flatMap((mode) => [
  { mode, ivGenerator: "plain", ivHash: undefined },
  { mode, ivGenerator: "plain64", ivHash: undefined },
  { mode, ivGenerator: "essiv", ivHash: "sha256" },
]);
const KEY_BYTES = { xts: [32, 64], cbc: [16, 24, 32] } as const;

/** One sector after the other, by OpenSSL's own modes. */
function oracle({ mode, ivGenerator, ivHash }: CipherSpec, key: Uint8Array, first: number, plain: Uint8Array): Buffer {
  const bits = (mode === "xts" ? key.length / 2 : key.length) * 8;
  const sectors = Array.from({ length: plain.length / 512 }, (_, index) => {
    const iv = Buffer.alloc(16);
    if (ivGenerator === "plain") iv.writeUInt32LE((first + index) % 2 ** 32);
    else iv.writeBigUInt64LE(BigInt(first + index));
    const essivKey = ivHash === undefined ? undefined : createHash(ivHash).update(key).digest();
    const used =
      essivKey === undefined ? iv : createCipheriv("aes-256-ecb", essivKey, null).setAutoPadding(false).update(iv);
    const cipher = createCipheriv(`aes-${bits}-${mode}`, key, used).setAutoPadding(false);
    return cipher.update(plain.subarray(index * 512, (index + 1) * 512));
  });
  return Buffer.concat(sectors);
}

it.each(SPECS)("encrypts and decrypts runs of sectors as OpenSSL does them one by one: %j", async (spec) => {
  await forEachSeed(4, (seed) => {
    const random = new SeededRandom(seed);
    for (const keyBytes of KEY_BYTES[spec.mode]) {
      const key = randomBytes(random, keyBytes);
      const cipher = new SectorCipher(nodeCryptography, spec, key);
      for (const first of [0, 1, 2 ** 32 - 2, 2 ** 43]) {
        const plain = randomBytes(random, 512 * (1 + random.below(9)));
        const before = plain.slice();
        const encrypted = cipher.encrypt(first, plain);
        expect(Buffer.compare(encrypted, oracle(spec, key, first, plain))).toBe(0);
        expect(Buffer.compare(cipher.decrypt(first, encrypted), plain)).toBe(0);
        expect(plain).toEqual(before);
      }
    }
  });
});

it.each(["sha1", "sha256", "sha512", "md5"] as const)(
  "has a key back from its stripes, and not from all but one (%s)",
  (hash) => {
    const random = new SeededRandom(3);
    for (const length of [16, 24, 32, 64]) {
      const key = randomBytes(random, length);
      const stripes = splitIntoStripes(nodeCryptography, hash, key, { stripes: 10, random });
      expect(mergeStripes(nodeCryptography, hash, stripes, length)).toEqual(key);
      for (const at of [0, length * 5, length * 10 - 1]) {
        const damaged = stripes.map((byte, index) => (index === at ? byte ^ 1 : byte));
        expect(mergeStripes(nodeCryptography, hash, damaged, length)).not.toEqual(key);
      }
    }
  },
);
