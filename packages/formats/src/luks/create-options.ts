/** The options with which an encrypted volume is created: QEMU's words and defaults. */
import { BlockError, parseSize } from "@spindle/base";
import type { HashName } from "@spindle/block";
import { checkEssiv, checkHere, DIGEST_BYTES } from "./algorithms.ts";
import type { CipherMode, IvGenerator } from "./sector-cipher.ts";

/** Beside the secret's id, which every kind of encryption takes. */
export const LUKS_CREATE_OPTIONS: readonly string[] = [
  "cipher-alg",
  "cipher-mode",
  "hash-alg",
  "iter-time",
  "ivgen-alg",
  "ivgen-hash-alg",
];

export interface LuksCreateOptions {
  /** Such as `aes-256`. */
  readonly algorithm: string;
  readonly mode: CipherMode;
  readonly ivGenerator: IvGenerator;
  readonly ivHash: HashName | undefined;
  readonly hash: HashName;
  /** How long deriving a slot's key is to take on this host, in milliseconds. */
  readonly iterTimeMs: number;
}

export const ITER_TIME_MS = 2000;

const ALGORITHMS = [
  ...["aes-128", "aes-192", "aes-256", "des", "3des", "cast5-128"],
  ...["serpent-128", "serpent-192", "serpent-256", "twofish-128", "twofish-192", "twofish-256"],
];
/** Of which the format has no name. */
const NO_LUKS_ALGORITHMS = ["des", "3des"];

/**
 * @param options by their names in {@link LUKS_CREATE_OPTIONS}
 * @throws {BlockError} EINVAL with QEMU's text when one is wrong, ENOTSUP for algorithms that are not here.
 */
export function parseLuksOptions(options: Readonly<Record<string, string | undefined>>): LuksCreateOptions {
  const algorithm = oneOf("cipher-alg", options["cipher-alg"] ?? "aes-256", ALGORITHMS);
  const mode = oneOf("cipher-mode", options["cipher-mode"] ?? "xts", ["ecb", "cbc", "xts", "ctr"]);
  const ivGenerator = oneOf("ivgen-alg", options["ivgen-alg"] ?? "plain64", ["plain", "plain64", "essiv"]);
  const hashes = Object.keys(DIGEST_BYTES);
  const hash = oneOf("hash-alg", options["hash-alg"] ?? "sha256", hashes);
  const ivHash = options["ivgen-hash-alg"] ?? (ivGenerator === "essiv" ? "sha256" : undefined);
  if (ivHash !== undefined) oneOf("ivgen-hash-alg", ivHash, hashes);
  const iterTimeMs = parseTime(options["iter-time"]);
  if (NO_LUKS_ALGORITHMS.includes(algorithm)) throw new BlockError("EINVAL", `Algorithm '${algorithm}' not supported`);
  const [cipher = ""] = algorithm.split("-");
  checkHere(cipher, algorithm, mode);
  const parsed = {
    algorithm,
    mode: mode as CipherMode,
    ivGenerator: ivGenerator as IvGenerator,
    ivHash: ivHash as HashName | undefined,
    hash: hash as HashName,
    iterTimeMs,
  };
  checkEssiv(parsed);
  return parsed;
}

/** Bytes of the master key. */
export function masterKeyBytes({ algorithm, mode }: Pick<LuksCreateOptions, "algorithm" | "mode">): number {
  const bytes = Number(algorithm.split("-")[1]) / 8;
  return mode === "xts" ? bytes * 2 : bytes;
}

function oneOf(key: string, value: string, known: readonly string[]): string {
  if (known.includes(value)) return value;
  throw new BlockError("EINVAL", `Parameter '${key}' does not accept value '${value}'`);
}

function parseTime(text: string | undefined): number {
  if (text === undefined) return ITER_TIME_MS;
  if (!/^\d+$/.test(text)) throw new BlockError("EINVAL", "Parameter 'iter-time' expects a number");
  return parseSize(text);
}
