/**
 * The encryption of a qcow2 image's clusters, by the method that its header tells: AES, the old one, by the disk's sector
 * numbers, or a LUKS volume's cipher by those of the image file (qcow2 specification, "Data encryption"). Tables, names
 * and compressed clusters are not encrypted.
 */
import { assert, BlockError, type Co } from "@spindle/base";
import type { BlockNode, Environment, IoVector, OpenRequest, OptionRecord } from "@spindle/block";
import type { ClusterCipher, ClusterPlace } from "../cluster-image.ts";
import { amendKeySlots } from "../luks/amend.ts";
import { type EncryptedPlace, readEncrypted, writeEncrypted } from "../luks/encrypted-data.ts";
import type { LuksHeader } from "../luks/header.ts";
import { luksInformation } from "../luks/information.ts";
import { cryptographyOf, passwordOf } from "../luks/secret.ts";
import { SectorCipher } from "../luks/sector-cipher.ts";
import { openVolume } from "../luks/volume.ts";
import type { Qcow2Header } from "./header.ts";

export const CRYPT_NONE = 0;
export const CRYPT_AES = 1;
export const CRYPT_LUKS = 2;

const KEY_OPTION = "encrypt.key-secret";
const AES_KEY_BYTES = 16;

export class Encryption implements ClusterCipher {
  readonly #method: number;
  #luks: LuksHeader | null;
  readonly #cipher: SectorCipher | null;
  readonly #keySecret: string | undefined;

  /**
   * @param cipher null when nobody reads or writes
   * @param keySecret the secret that opens it
   */
  constructor(method: number, luks: LuksHeader | null, cipher: SectorCipher | null, keySecret: string | undefined) {
    this.#method = method;
    this.#luks = luks;
    this.#cipher = cipher;
    this.#keySecret = keySecret;
  }

  /** Reads bytes that do not leave a run of clusters. */
  read(file: BlockNode, place: ClusterPlace, vector: IoVector): Co<void> {
    return readEncrypted(this.#opened(), file, this.#numbered(place), vector);
  }

  write(file: BlockNode, place: ClusterPlace, vector: IoVector): Co<void> {
    return writeEncrypted(this.#opened(), file, this.#numbered(place), vector);
  }

  /** Adds or erases passwords of an image with LUKS, as `amendKeySlots` does. */
  *amend(
    file: BlockNode,
    { cryptoHeader }: Qcow2Header,
    options: Readonly<Record<string, string>>,
    { environment, force }: { readonly environment: Environment; readonly force: boolean },
  ): Co<void> {
    assert(this.#luks !== null && cryptoHeader !== null, "passwords of other images are refused before");
    const place = { file, offset: cryptoHeader.offset };
    const volume = { ...place, header: this.#luks, environment, keySecret: this.#keySecret, keyOption: KEY_OPTION };
    this.#luks = yield* amendKeySlots(volume, options, { prefix: "encrypt.", force });
  }

  /** For `info`. */
  information(): Readonly<Record<string, unknown>> {
    return this.#luks === null ? { format: "aes" } : luksInformation(this.#luks, "luks");
  }

  #numbered({ guestOffset, hostOffset }: ClusterPlace): EncryptedPlace {
    return { offset: hostOffset, numbered: this.#method === CRYPT_LUKS ? hostOffset : guestOffset };
  }

  #opened(): SectorCipher {
    if (this.#cipher === null) throw new BlockError("EACCES", "the image was opened without its key");
    return this.#cipher;
  }
}

/**
 * @throws {BlockError} EINVAL when header and options contradict each other or themselves, and as a LUKS volume's opening
 *   and `passwordOf` do.
 */
export function* openEncryption(
  request: Pick<OpenRequest, "options" | "environment" | "children" | "withoutData">,
  header: Qcow2Header,
): Co<Encryption | null> {
  const { environment, withoutData } = request;
  const method = header.cryptMethod;
  const keySecret = checkedOptions(request.options["encrypt"] as OptionRecord | undefined, method);
  if (method === CRYPT_NONE) return null;
  const password = (): Uint8Array => passwordOf(environment, KEY_OPTION, keySecret);
  if (method === CRYPT_AES)
    return new Encryption(method, null, withoutData === true ? null : aesCipher(password(), environment), keySecret);
  assert(header.cryptoHeader !== null, "a header that says LUKS tells where");
  const place = { file: request.children.file as BlockNode, offset: header.cryptoHeader.offset };
  const volume = yield* openVolume(place, withoutData === true ? null : password, environment);
  return new Encryption(method, volume.header, volume.cipher, keySecret);
}

/** The password itself is the key, cut or filled up with zeros; a wrong one shows noise. */
function aesCipher(password: Uint8Array, environment: Environment): SectorCipher {
  const key = new Uint8Array(AES_KEY_BYTES);
  key.set(password.subarray(0, AES_KEY_BYTES));
  const spec = { mode: "cbc", ivGenerator: "plain64", ivHash: undefined } as const;
  return new SectorCipher(cryptographyOf(environment), spec, key);
}

/** @returns the secret's id. */
function checkedOptions(options: OptionRecord = {}, method: number): string | undefined {
  const { format, "key-secret": keySecret, ...others } = options;
  const [unknown] = Object.keys(others);
  if (format !== undefined && method === CRYPT_NONE)
    throw new BlockError("EINVAL", `No encryption in image header, but options specified format '${format}'`);
  const reported = method === CRYPT_AES ? "aes" : "luks";
  if (format !== undefined && format !== reported && method !== CRYPT_NONE)
    throw new BlockError("EINVAL", `Header reported '${reported}' encryption format but options specify '${format}'`);
  if (unknown !== undefined) throw new BlockError("EINVAL", `Parameter '${unknown}' is unexpected`);
  return keySecret === undefined ? undefined : String(keySecret);
}
