/** Base64 (RFC 4648, section 4) without a host's decoder, in which white space means nothing. */
import { BlockError } from "@spindle/base";

const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const WHITE_SPACE = "\r\n\t ";

/** @throws {BlockError} EINVAL for characters that do not belong to it. */
export function decodeBase64(text: Uint8Array): Uint8Array {
  const bytes: number[] = [];
  let bits = 0;
  let count = 0;
  for (const code of text) {
    const character = String.fromCharCode(code);
    if (character === "=" || WHITE_SPACE.includes(character)) continue;
    const value = ALPHABET.indexOf(character);
    if (value < 0) throw new BlockError("EINVAL", "Base64 data contains invalid characters");
    bits = ((bits << 6) | value) & 0xffff;
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes.push((bits >> count) & 0xff);
  }
  return Uint8Array.from(bytes);
}
