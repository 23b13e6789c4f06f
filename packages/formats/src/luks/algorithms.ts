/**
 * The algorithms that an encrypted image may name, by the names of the LUKS specification and of QEMU's options, and
 * which of them are here. A name that exists and is not here is refused by name.
 */
import { BlockError } from "@spindle/base";
import type { HashName } from "@spindle/block";
import type { CipherMode, CipherSpec, IvGenerator } from "./sector-cipher.ts";

/** Bytes of a digest. */
export const DIGEST_BYTES: Readonly<Record<HashName, number>> = {
  md5: 16,
  ripemd160: 20,
  sha1: 20,
  sha224: 28,
  sha256: 32,
  sha384: 48,
  sha512: 64,
};

/** Bytes of the keys that the ciphers of the format take. */
const KEY_BYTES: Readonly<Record<string, readonly number[]>> = {
  aes: [16, 24, 32],
  cast5: [16],
  serpent: [16, 24, 32],
  twofish: [16, 24, 32],
};

/** What images may name: the modes of block ciphers, and generators of initial vectors. */
const MODES = ["ecb", "cbc", "xts", "ctr"];
const GENERATORS = ["plain", "plain64", "essiv"];

/** The cipher of an image, as `info` names it. */
export interface ImageCipher extends CipherSpec {
  /** The cipher with its key's bits, such as `aes-256`. */
  readonly algorithm: string;
}

/**
 * What the texts of a LUKS header mean.
 * @param mode such as `xts-plain64` or `cbc-essiv:sha256`
 * @throws {BlockError} EINVAL for what the format does not have, ENOTSUP for what is not here.
 */
export function parseCipher(name: string, mode: string, keyBytes: number): ImageCipher {
  const dash = mode.indexOf("-");
  if (dash < 0) throw invalid(`Unexpected cipher mode string format '${mode}'`);
  const modeName = mode.slice(0, dash);
  const [generator = "", hashName] = mode.slice(dash + 1).split(/:(.*)/s);
  const ivHash = hashName === undefined ? undefined : parseHash(hashName);
  if (!MODES.includes(modeName)) throw invalid(`Cipher mode '${modeName}' not supported`);
  const cipherBytes = modeName === "xts" ? Math.floor(keyBytes / 2) : keyBytes;
  if (!Object.hasOwn(KEY_BYTES, name) || KEY_BYTES[name]?.includes(cipherBytes) !== true)
    throw invalid(`Algorithm '${name}' with key size ${cipherBytes} bytes not supported`);
  if (!GENERATORS.includes(generator)) throw invalid(`IV generator '${generator}' not supported`);
  const algorithm = `${name}-${cipherBytes * 8}`;
  checkHere(name, algorithm, modeName);
  if (modeName === "xts" && keyBytes % 2 !== 0) throw invalid("XTS cipher key length should be a multiple of 2");
  const spec = { algorithm, mode: modeName as CipherMode, ivGenerator: generator as IvGenerator, ivHash };
  checkEssiv(spec);
  return spec;
}

/** @throws {BlockError} EINVAL when there is no such hash. */
export function parseHash(name: string): HashName {
  if (Object.hasOwn(DIGEST_BYTES, name)) return name as HashName;
  throw invalid(`Hash algorithm '${name}' not supported`);
}

/** The key of an ESSIV cipher is a digest. @throws {BlockError} EINVAL when there is none, or it is no key's length. */
export function checkEssiv({ ivGenerator, ivHash }: CipherSpec): void {
  if (ivGenerator !== "essiv") return;
  if (ivHash === undefined) throw invalid("Missing IV generator hash specification");
  const bytes = DIGEST_BYTES[ivHash];
  if (KEY_BYTES["aes"]?.includes(bytes) !== true) throw invalid(`No AES cipher with key size ${bytes} available`);
}

/** @throws {BlockError} ENOTSUP for ciphers and modes that no cryptography here has. */
export function checkHere(cipher: string, algorithm: string, mode: string): void {
  if (cipher !== "aes") throw new BlockError("ENOTSUP", `Algorithm '${algorithm}' is not supported here`);
  if (mode !== "xts" && mode !== "cbc") throw new BlockError("ENOTSUP", `Cipher mode '${mode}' is not supported here`);
}

function invalid(message: string): BlockError {
  return new BlockError("EINVAL", message);
}
