/** Looks up the passwords of encrypted images among the secrets that the user has given. */
import { BlockError, decodeUtf8, encodeUtf8 } from "@spindle/base";
import type { Cryptography, Environment } from "@spindle/block";

/**
 * The password behind the option that names a secret, up to its first zero byte.
 * @param option as the user writes it, such as `encrypt.key-secret`
 * @throws {BlockError} EINVAL when there is none or it is no text, ENOENT when no secret has the name.
 */
export function passwordOf({ secrets }: Environment, option: string, id: string | undefined): Uint8Array {
  if (id === undefined) throw new BlockError("EINVAL", `Parameter '${option}' is required for cipher`);
  const data = secrets?.get(id);
  if (data === undefined) throw new BlockError("ENOENT", `No secret with id '${id}'`);
  const again = encodeUtf8(decodeUtf8(data));
  if (again.length !== data.length || again.some((byte, index) => byte !== data[index]))
    throw new BlockError("EINVAL", `Data from secret ${id} is not valid UTF-8`);
  const end = data.indexOf(0);
  return end < 0 ? data : data.subarray(0, end);
}

/** @throws {BlockError} ENOTSUP where the host has none. */
export function cryptographyOf({ cryptography }: Environment): Cryptography {
  if (cryptography === undefined) throw new BlockError("ENOTSUP", "this host has no cryptography");
  return cryptography;
}
