/**
 * The ciphers of `node:crypto`. A cipher object is made once for each key: making one costs as much as 16 KiB of AES, so
 * modes that begin anew with every sector are built, over single blocks, where the sectors are known (formats/luks).
 */
import { type Co, perform } from "@spindle/base";
import type { BlockCipher, Cryptography, KeyDerivation } from "@spindle/block";

/** Loaded by the first who needs it. */
function crypto(): typeof import("node:crypto") {
  return process.getBuiltinModule("node:crypto");
}

export const nodeCryptography: Cryptography = {
  aes(key): BlockCipher {
    const name = `aes-${key.length * 8}-ecb`;
    // Without padding, what goes in comes out at once, and the object goes on for ever.
    const encryption = crypto().createCipheriv(name, key, null).setAutoPadding(false);
    const decryption = crypto().createDecipheriv(name, key, null).setAutoPadding(false);
    return { encrypt: (blocks) => encryption.update(blocks), decrypt: (blocks) => decryption.update(blocks) };
  },
  hash: (name, data) => crypto().createHash(name).update(data).digest(),
  deriveKey: ({ password, salt, iterations, length, hash }: KeyDerivation): Co<Uint8Array> =>
    perform<Uint8Array>({
      kind: "operation",
      perform: () => crypto().pbkdf2Sync(password, salt, iterations, length, hash),
      start(settle) {
        crypto().pbkdf2(password, salt, iterations, length, hash, (error, key) => settle(error ?? undefined, key));
      },
    }),
};
