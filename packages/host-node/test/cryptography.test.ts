import { type Clock, SyncRunner } from "@spindle/base";
import { expect, it } from "vitest";
import { nodeCryptography } from "../src/index.ts";

const bytes = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex, "hex"));
const hex = (data: Uint8Array): string => Buffer.from(data).toString("hex");
const clock: Clock = { now: () => performance.now() };

it("encrypts blocks as FIPS 197 does (appendix C), again and again, also in shared memory", () => {
  const plain = bytes("00112233445566778899aabbccddeeff");
  const ciphers = {
    "000102030405060708090a0b0c0d0e0f": "69c4e0d86a7b0430d8cdb78070b4c55a",
    "000102030405060708090a0b0c0d0e0f1011121314151617": "dda97ca4864cdfe06eaf70a0ec0d7191",
    "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f": "8ea2b7ca516745bfeafc49904b496089",
  };
  for (const [key, expected] of Object.entries(ciphers)) {
    const aes = nodeCryptography.aes(bytes(key));
    const shared = new Uint8Array(new SharedArrayBuffer(16));
    shared.set(plain);
    for (const input of [plain, shared, plain]) expect(hex(aes.encrypt(input))).toBe(expected);
    for (let round = 0; round < 2; round++) expect(hex(aes.decrypt(bytes(expected)))).toBe(hex(plain));
  }
});

it("derives keys as RFC 6070 and RFC 7914 do, and hashes", () => {
  const runner = new SyncRunner(clock);
  const derive = (
    hash: "sha1" | "sha256",
    password: string,
    salt: string,
    iterations: number,
    length: number,
  ): string =>
    hex(
      runner.run(
        nodeCryptography.deriveKey({
          hash,
          password: new TextEncoder().encode(password),
          salt: new TextEncoder().encode(salt),
          iterations,
          length,
        }),
      ),
    );
  expect(derive("sha1", "password", "salt", 4096, 20)).toBe("4b007901b765489abead49d926f721d065a429c1");
  expect(derive("sha256", "passwd", "salt", 1, 32)).toBe(
    "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc",
  );
  expect(hex(nodeCryptography.hash("sha1", new TextEncoder().encode("abc")))).toBe(
    "a9993e364706816aba3e25717850c26c9cd0d89d",
  );
});
