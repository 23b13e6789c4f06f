/** What the bytes of one scalar token mean (qobject/json-parser.c). */
import { decodeLeniently, decodeOne, isCharacter } from "./modified-utf8.ts";
import { TextBuilder } from "./text-builder.ts";

/** Why a value is no JSON, in QEMU's words. It does not leave the reader. */
export class JsonSyntaxError extends Error {
  override readonly name = "JsonSyntaxError";
}

const BACKSLASH = 0x5c;
const LETTER_U = 0x75;
const MINUS = 0x2d;
const ZERO = 0x30;

/** So many digits fit a number exactly. */
const SMALL_INTEGER_DIGITS = 15;

/** By the byte behind the backslash. */
const SIMPLE_ESCAPES: ReadonlyMap<number, number> = new Map(
  Object.entries({ '"': '"', "'": "'", "\\": "\\", "/": "/", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t" }).map(
    ([letter, meaning]) => [letter.charCodeAt(0), meaning.charCodeAt(0)],
  ),
);

const INT64_MIN = -(2n ** 63n);
const UINT64_MAX = 2n ** 64n - 1n;

/** More characters than an integer of 64 bits has: such a number is a float, and is never turned into a bigint. */
const INTEGER_CHARACTERS_MAX = 20;

/** An error quotes no more of a token than this. */
const QUOTED_BYTES_MAX = 1024;

/** A whole number: exact from -2^63 to 2^64 - 1, a float beyond. */
export function integerValue(token: Uint8Array): number | bigint {
  if (token.length <= SMALL_INTEGER_DIGITS && token[0] !== MINUS) return smallInteger(token);
  const digits = decodeLeniently(token);
  const value = Number(digits);
  // Adding 0 turns -0 into 0.
  if (Number.isSafeInteger(value)) return value + 0;
  if (digits.length > INTEGER_CHARACTERS_MAX) return value;
  const exact = BigInt(digits);
  return exact >= INT64_MIN && exact <= UINT64_MAX ? exact : value;
}

function smallInteger(digits: Uint8Array): number {
  let value = 0;
  for (const digit of digits) value = value * 10 + (digit - ZERO);
  return value;
}

/** A number with a fraction or an exponent. */
export function floatValue(token: Uint8Array): number {
  return Number(decodeLeniently(token));
}

/** @throws {JsonSyntaxError} for other words than the three. */
export function keywordValue(token: Uint8Array): boolean | null {
  const word = quoted(token);
  if (word === "null") return null;
  if (word === "true" || word === "false") return word === "true";
  throw new JsonSyntaxError(`invalid keyword '${word}'`);
}

/** A token's text for an error, as C prints it: up to the first NUL. */
export function quoted(token: Uint8Array): string {
  const nul = token.indexOf(0);
  const end = nul < 0 ? token.length : nul;
  return decodeLeniently(token.subarray(0, Math.min(end, QUOTED_BYTES_MAX)));
}

/** @throws {JsonSyntaxError} for escapes and bytes that are no characters. */
export function stringValue(token: Uint8Array): string {
  const end = token.length - 1;
  const builder = new TextBuilder(token.length);
  for (let index = 1; index < end; ) {
    const byte = token[index] as number;
    if (byte === BACKSLASH) {
      const { point, length } = readEscape(token, index);
      builder.add(point);
      index += length;
    } else if (byte < 0x80) {
      builder.add(byte);
      index += 1;
    } else {
      const { point, length } = decodeOne(token, index);
      if (point < 0) throw new JsonSyntaxError("invalid UTF-8 sequence in string");
      builder.add(point);
      index += length;
    }
  }
  return builder.text();
}

interface Escape {
  readonly point: number;
  readonly length: number;
}

function readEscape(token: Uint8Array, start: number): Escape {
  const letter = token[start + 1] as number;
  if (letter === LETTER_U) return readHexadecimal(token, start);
  const point = SIMPLE_ESCAPES.get(letter);
  if (point === undefined) throw new JsonSyntaxError("invalid escape sequence in string");
  return { point, length: 2 };
}

/** One escape of a character, or two of a surrogate pair. */
function readHexadecimal(token: Uint8Array, start: number): Escape {
  let point = fourDigits(token, start + 2);
  let length = 6;
  if (point >= 0xd800 && point <= 0xdbff && token[start + 6] === BACKSLASH && token[start + 7] === LETTER_U) {
    const trail = fourDigits(token, start + 8);
    if (trail >= 0xdc00 && trail <= 0xdfff) {
      point = 0x10000 + (point - 0xd800) * 0x400 + (trail - 0xdc00);
      length = 12;
    }
  }
  if (isCharacter(point)) return { point, length };
  throw new JsonSyntaxError(`${quoted(token.subarray(start, start + length))} is not a valid Unicode character`);
}

/** Four hexadecimal digits, or -1. */
function fourDigits(token: Uint8Array, start: number): number {
  const digits = String.fromCharCode(...token.subarray(start, start + 4));
  return /^[0-9a-fA-F]{4}$/.test(digits) ? Number.parseInt(digits, 16) : -1;
}
