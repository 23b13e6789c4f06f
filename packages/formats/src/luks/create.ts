/** Makes new volumes: a master key, a header, and one slot that a password opens. */
import { alignUp, BlockError, type Co, type RandomSource } from "@spindle/base";
import type { Environment, HashName } from "@spindle/block";
import { parseCipher } from "./algorithms.ts";
import { type LuksCreateOptions, masterKeyBytes } from "./create-options.ts";
import {
  formatLuksHeader,
  KEY_MATERIAL_ALIGNMENT,
  keyMaterialBytes,
  type LuksHeader,
  SALT_BYTES,
  SLOT_COUNT,
} from "./header.ts";
import { digestOf, iterationsMax, sealKey } from "./key-slots.ts";
import { randomBytes } from "./random-bytes.ts";
import { cryptographyOf } from "./secret.ts";

const ITERATIONS_MIN = 1000;
/** The master key is random: its digest needs no more than an eighth of a slot's time, as in cryptsetup. */
const DIGEST_SHARE = 8;

/** Iterations of the first measurement; the last one takes at least so long. */
const MEASURED_FIRST = 2 ** 13;
const MEASURED_MS = 50;
const MEASURED_MAX = 2 ** 24;

export interface NewVolume {
  readonly header: LuksHeader;
  readonly masterKey: Uint8Array;
  /** What stands at the volume's begin; up to the payload's offset, zeros follow. */
  readonly head: Uint8Array;
}

/** @throws {BlockError} EINVAL when the time wanted takes more iterations than an image may have. */
export function* createVolume(
  options: LuksCreateOptions,
  password: Uint8Array,
  environment: Environment,
): Co<NewVolume> {
  const cryptography = cryptographyOf(environment);
  const { random } = environment;
  const { hash } = options;
  const masterKey = randomBytes(random, masterKeyBytes(options));
  const plan = planHeader(options);
  const digestSalt = randomBytes(random, SALT_BYTES);
  const digestMs = options.iterTimeMs / DIGEST_SHARE;
  const digestIterations = yield* iterationsIn(digestMs, { hash, keyBytes: plan.digest.length }, environment);
  const digest = yield* digestOf({ hash, digestSalt, digestIterations }, masterKey, cryptography);
  const iterations = yield* iterationsIn(options.iterTimeMs, plan, environment);
  const { salt, material } = yield* sealKey(plan, masterKey, { password, iterations }, environment);
  const [first, ...others] = plan.slots;
  const keyOffset = first?.keyOffset ?? 0;
  const slots = [{ active: true, iterations, salt, keyOffset }, ...others];
  const header = { ...plan, digest, digestSalt, digestIterations, uuid: randomUuid(random), slots };
  const head = new Uint8Array(keyOffset + material.length);
  head.set(formatLuksHeader(header));
  head.set(material, keyOffset);
  return { header, masterKey, head };
}

/** Where everything stands, before there are keys. */
export function planHeader(options: Omit<LuksCreateOptions, "iterTimeMs">): LuksHeader {
  const { algorithm, mode, ivGenerator, ivHash, hash } = options;
  const [cipherName = ""] = algorithm.split("-");
  const cipherMode = `${mode}-${ivGenerator}${ivHash === undefined ? "" : `:${ivHash}`}`;
  const keyBytes = masterKeyBytes(options);
  const slotBytes = alignUp(keyMaterialBytes(keyBytes), KEY_MATERIAL_ALIGNMENT);
  const slots = Array.from({ length: SLOT_COUNT }, (_, index) => ({
    active: false,
    iterations: 0,
    salt: new Uint8Array(SALT_BYTES),
    keyOffset: KEY_MATERIAL_ALIGNMENT + index * slotBytes,
  }));
  return {
    cipherName,
    cipherMode,
    hash,
    cipher: parseCipher(cipherName, cipherMode, keyBytes),
    payloadOffset: KEY_MATERIAL_ALIGNMENT + SLOT_COUNT * slotBytes,
    keyBytes,
    digest: new Uint8Array(20),
    digestSalt: new Uint8Array(SALT_BYTES),
    digestIterations: 0,
    uuid: "",
    slots,
  };
}

/** Iterations of PBKDF2 that take so long on this host. @throws {BlockError} EINVAL when they are more than an image may have. */
export function* iterationsIn(
  durationMs: number,
  key: { readonly hash: HashName; readonly keyBytes: number },
  environment: Environment,
): Co<number> {
  const { clock } = environment;
  const cryptography = cryptographyOf(environment);
  const salt = new Uint8Array(SALT_BYTES);
  const what = { hash: key.hash, password: salt, salt, length: key.keyBytes };
  for (let iterations = MEASURED_FIRST; ; iterations *= 2) {
    const before = clock.now();
    yield* cryptography.deriveKey({ ...what, iterations });
    const elapsed = clock.now() - before;
    if (elapsed < MEASURED_MS && iterations < MEASURED_MAX) continue;
    const wanted = Math.max(ITERATIONS_MIN, Math.floor((iterations / Math.max(elapsed, 1)) * durationMs));
    const most = iterationsMax(key);
    if (wanted > most) throw new BlockError("EINVAL", `PBKDF iterations ${wanted} larger than ${most}`);
    return wanted;
  }
}

/** Version 4 (RFC 9562, section 5.4). */
function randomUuid(random: RandomSource): string {
  const bytes = randomBytes(random, 16);
  bytes[6] = ((bytes[6] as number) & 0x0f) | 0x40;
  bytes[8] = ((bytes[8] as number) & 0x3f) | 0x80;
  const text = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return [text.slice(0, 8), text.slice(8, 12), text.slice(12, 16), text.slice(16, 20), text.slice(20)].join("-");
}
