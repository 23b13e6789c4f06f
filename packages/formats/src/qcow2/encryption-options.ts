/** The options with which an encrypted qcow2 image is created, in QEMU's words. */
import { BlockError, type Co } from "@spindle/base";
import type { Environment, OptionRecord } from "@spindle/block";
import { createVolume, planHeader } from "../luks/create.ts";
import { LUKS_CREATE_OPTIONS, type LuksCreateOptions, parseLuksOptions } from "../luks/create-options.ts";
import { passwordOf } from "../luks/secret.ts";
import { CRYPT_AES, CRYPT_LUKS, CRYPT_NONE } from "./encryption.ts";

const PREFIX = "encrypt.";
const KEY_SECRET = "encrypt.key-secret";
const LUKS_OPTIONS: readonly string[] = LUKS_CREATE_OPTIONS.map((key) => PREFIX + key);

/** `encryption=on` is an old name of `encrypt.format=aes`. */
export const ENCRYPTION_OPTIONS: readonly string[] = ["encryption", `${PREFIX}format`, KEY_SECRET, ...LUKS_OPTIONS];

export interface EncryptionPlan {
  readonly cryptMethod: number;
  readonly luks: LuksCreateOptions | null;
  /** Bytes of the LUKS header and its keys; 0 when there is none. */
  readonly headerBytes: number;
}

/** @throws {BlockError} EINVAL with QEMU's text when the options contradict each other, and as `parseLuksOptions` does. */
export function planEncryption(options: Readonly<Record<string, string>>): EncryptionPlan {
  const isOn = parseSwitch(options["encryption"]);
  const given = Object.keys(options).filter((key) => key.startsWith(PREFIX));
  const format = options[`${PREFIX}format`];
  if (isOn && format !== undefined)
    throw invalid("'encrypt.format' and its alias 'encryption' can't be used at the same time");
  const chosen = format ?? (isOn ? "aes" : undefined);
  if (chosen === undefined) {
    if (given.length > 0) throw invalid("Parameter 'encrypt.format' is missing");
    return { cryptMethod: CRYPT_NONE, luks: null, headerBytes: 0 };
  }
  if (chosen === "aes") {
    const unexpected = given.find((key) => LUKS_OPTIONS.includes(key));
    if (unexpected !== undefined) throw invalid(`Parameter '${unexpected}' is unexpected`);
    return { cryptMethod: CRYPT_AES, luks: null, headerBytes: 0 };
  }
  if (chosen !== "luks") throw invalid(`Parameter 'format' does not accept value '${chosen}'`);
  const entries = LUKS_CREATE_OPTIONS.map((key) => [key, options[PREFIX + key]] as const);
  const luks = parseLuksOptions(Object.fromEntries(entries));
  return { cryptMethod: CRYPT_LUKS, luks, headerBytes: planHeader(luks).payloadOffset };
}

/** What stands at the begin of a new image's LUKS header; nothing where it has none. @throws {BlockError} without a password. */
export function* createEncryption(
  { cryptMethod, luks }: EncryptionPlan,
  options: Readonly<Record<string, string>>,
  environment: Environment,
): Co<Uint8Array> {
  if (cryptMethod === CRYPT_NONE) return new Uint8Array(0);
  const password = passwordOf(environment, KEY_SECRET, options[KEY_SECRET]);
  if (luks === null) return new Uint8Array(0);
  return (yield* createVolume(luks, password, environment)).head;
}

/** @throws {BlockError} EINVAL for a LUKS image without one. */
export function checkSecretGiven({ luks }: EncryptionPlan, options: Readonly<Record<string, string>>): void {
  if (luks !== null && options[KEY_SECRET] === undefined)
    throw invalid(`Parameter '${KEY_SECRET}' is required for cipher`);
}

/** What has to be told to open an image that was created with these options. */
export function encryptionToOpen({ [KEY_SECRET]: secret }: Readonly<Record<string, string>>): OptionRecord {
  return secret === undefined ? {} : { encrypt: { "key-secret": secret } };
}

function parseSwitch(text = "off"): boolean {
  if (["on", "yes", "true", "y"].includes(text)) return true;
  if (["off", "no", "false", "n"].includes(text)) return false;
  throw invalid("Parameter 'encryption' expects 'on' or 'off'");
}

function invalid(message: string): BlockError {
  return new BlockError("EINVAL", message);
}
