/**
 * The key slots of a LUKS volume (on-disk format specification, sections 3 and 4): each holds the master key, split into
 * stripes and encrypted with a key that is derived from one password.
 */
import { BlockError, type Co } from "@spindle/base";
import type { Cryptography, Environment } from "@spindle/block";
import { DIGEST_BYTES as HASH_BYTES } from "./algorithms.ts";
import { mergeStripes, splitIntoStripes } from "./anti-forensic.ts";
import { DIGEST_BYTES, keyMaterialBytes, type LuksHeader, SALT_BYTES, STRIPES } from "./header.ts";
import { randomBytes } from "./random-bytes.ts";
import { cryptographyOf } from "./secret.ts";
import { SectorCipher } from "./sector-cipher.ts";

/**
 * Hashes that opening one image takes at most, about a minute of them: an image that means harm can ask for hours. A
 * volume that was made with QEMU's or cryptsetup's two seconds for each slot takes an eighth of it when all slots are in use.
 */
const HASHES_MAX: number = 2 ** 27;

/** Where a volume's header and stripes stand. */
export type ReadVolume = (offset: number, length: number) => Co<Uint8Array>;

/** A slot that a password opens. */
export interface OpenedSlot {
  readonly index: number;
  readonly masterKey: Uint8Array;
}

/**
 * The master key of a volume, from the first slot that the password opens.
 * @param read reads the volume; behind its end there are zeros
 * @throws {BlockError} EACCES when the password opens none, and as {@link openSlots} does.
 */
export function* unlock(
  header: LuksHeader,
  read: ReadVolume,
  password: Uint8Array,
  environment: Environment,
): Co<Uint8Array> {
  const [first] = yield* openSlots(header, read, { password, most: 1 }, environment);
  if (first === undefined) throw new BlockError("EACCES", "Invalid password, cannot unlock any keyslot");
  return first.masterKey;
}

/**
 * The active slots that a password opens, in order.
 * @param tried `most` ends the search when so many are found; `only` names the slot that is looked at
 * @throws {BlockError} ENOTSUP when trying them would take too long, and what reading throws.
 */
export function* openSlots(
  header: LuksHeader,
  read: ReadVolume,
  tried: { readonly password: Uint8Array; readonly most?: number; readonly only?: number | undefined },
  environment: Environment,
): Co<OpenedSlot[]> {
  const cryptography = cryptographyOf(environment);
  const { password, most = header.slots.length, only } = tried;
  const { hash, keyBytes, digestIterations } = header;
  const opened: OpenedSlot[] = [];
  let hashesLeft = HASHES_MAX;
  for (const [index, { active, iterations, salt, keyOffset }] of header.slots.entries()) {
    if (!active || opened.length === most || (only !== undefined && index !== only)) continue;
    hashesLeft -= hashesFor(header, iterations, keyBytes) + hashesFor(header, digestIterations, DIGEST_BYTES);
    if (hashesLeft < 0)
      throw new BlockError(
        "ENOTSUP",
        "PBKDF2 iteration counts of the key slots are too large: unlocking takes too long",
      );
    const slotKey = yield* cryptography.deriveKey({ hash, password, salt, iterations, length: keyBytes });
    const material = yield* read(keyOffset, keyMaterialBytes(keyBytes));
    const split = new SectorCipher(cryptography, header.cipher, slotKey).decrypt(0, material);
    const masterKey = mergeStripes(cryptography, hash, split.subarray(0, keyBytes * STRIPES), keyBytes);
    const digest = yield* digestOf(header, masterKey, cryptography);
    if (digest.every((byte, at) => byte === header.digest[at])) opened.push({ index, masterKey });
  }
  return opened;
}

/** What a slot needs that opens with a password. */
export interface SealedKey {
  readonly salt: Uint8Array;
  /** The stripes, encrypted; whole sectors. */
  readonly material: Uint8Array;
}

/** Hides the master key behind a password. */
export function* sealKey(
  header: Pick<LuksHeader, "hash" | "cipher" | "keyBytes">,
  key: Uint8Array,
  { password, iterations }: { readonly password: Uint8Array; readonly iterations: number },
  environment: Environment,
): Co<SealedKey> {
  const cryptography = cryptographyOf(environment);
  const { random } = environment;
  const { hash, keyBytes } = header;
  const salt = randomBytes(random, SALT_BYTES);
  const slotKey = yield* cryptography.deriveKey({ hash, password, salt, iterations, length: keyBytes });
  const stripes = new Uint8Array(keyMaterialBytes(keyBytes));
  stripes.set(splitIntoStripes(cryptography, hash, key, { stripes: STRIPES, random }));
  return { salt, material: new SectorCipher(cryptography, header.cipher, slotKey).encrypt(0, stripes) };
}

/** What the header keeps of the master key, so that it is recognised. */
export function digestOf(
  { hash, digestSalt, digestIterations }: Pick<LuksHeader, "hash" | "digestSalt" | "digestIterations">,
  key: Uint8Array,
  cryptography: Cryptography,
): Co<Uint8Array> {
  const what = { hash, password: key, salt: digestSalt, iterations: digestIterations, length: DIGEST_BYTES };
  return cryptography.deriveKey(what);
}

/** The most iterations that a slot may be given here, so that opening it again is not refused. */
export function iterationsMax(header: Pick<LuksHeader, "hash" | "keyBytes">): number {
  return Math.floor(HASHES_MAX / 2 / hashesFor(header, 1, header.keyBytes));
}

/** PBKDF2 computes each piece of the key, as long as a digest, by itself. */
function hashesFor({ hash }: Pick<LuksHeader, "hash">, iterations: number, length: number): number {
  return iterations * Math.ceil(length / HASH_BYTES[hash]);
}
