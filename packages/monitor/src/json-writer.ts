/** Writes values as QEMU does (qobject/json-writer.c): ASCII only, `, ` and `: `, keys in the order of its hash table. */
import { AssertionError } from "@spindle/base";
import { dictionaryOrder } from "./dictionary-order.ts";

const SHORT_ESCAPES: Readonly<Record<string, string>> = {
  '"': '\\"',
  "\\": "\\\\",
  "\b": "\\b",
  "\f": "\\f",
  "\n": "\\n",
  "\r": "\\r",
  "\t": "\\t",
};

// biome-ignore lint/suspicious/noControlCharactersInRegex: these are the characters that have to be escaped
const ESCAPED = /["\\\u{0}-\u{1f}\u{7f}-\u{10ffff}]/gu;

/** From this exponent on, 17 digits are not enough to write a number without one. */
const SIGNIFICANT_DIGITS = 17;

/** The text of a value, without a line end. Properties that are undefined are left out. */
export function writeJson(value: unknown): string {
  const parts: string[] = [];
  write(value, parts);
  return parts.join("");
}

function write(value: unknown, parts: string[]): void {
  if (value === null || typeof value === "boolean" || typeof value === "bigint") parts.push(String(value));
  else if (typeof value === "number") parts.push(numberText(value));
  else if (typeof value === "string") parts.push(stringText(value));
  else if (Array.isArray(value)) writeArray(value, parts);
  else if (typeof value === "object") writeObject(value as Readonly<Record<string, unknown>>, parts);
  else throw new AssertionError(`a ${typeof value} has no JSON form`);
}

function writeArray(items: readonly unknown[], parts: string[]): void {
  parts.push("[");
  items.forEach((item, index) => {
    if (index > 0) parts.push(", ");
    write(item, parts);
  });
  parts.push("]");
}

function writeObject(entries: Readonly<Record<string, unknown>>, parts: string[]): void {
  const keys = dictionaryOrder(Object.keys(entries).filter((key) => entries[key] !== undefined));
  parts.push("{");
  keys.forEach((key, index) => {
    parts.push(index > 0 ? ", " : "", stringText(key), ": ");
    write(entries[key], parts);
  });
  parts.push("}");
}

function stringText(text: string): string {
  return `"${text.replace(ESCAPED, escapeCharacter)}"`;
}

function escapeCharacter(character: string): string {
  const short = SHORT_ESCAPES[character];
  if (short !== undefined) return short;
  // Half of a surrogate pair is no character.
  if (/^[\ud800-\udfff]$/u.test(character)) return "\\uFFFD";
  let text = "";
  for (let index = 0; index < character.length; index++)
    text += `\\u${character.charCodeAt(index).toString(16).toUpperCase().padStart(4, "0")}`;
  return text;
}

/** Whole numbers as they are, others as C's `%.17g` writes them. */
function numberText(value: number): string {
  if (Number.isSafeInteger(value)) return Object.is(value, -0) ? "-0" : String(value);
  // No JSON has infinity; this is read as infinity again.
  if (!Number.isFinite(value)) return value < 0 ? "-1e999" : "1e999";
  const [mantissa, power] = value.toExponential(SIGNIFICANT_DIGITS - 1).split("e") as [string, string];
  const exponent = Number(power);
  const sign = value < 0 ? "-" : "";
  const digits = mantissa.replace("-", "").replace(".", "");
  if (exponent < -4 || exponent >= SIGNIFICANT_DIGITS) {
    const sized = String(Math.abs(exponent)).padStart(2, "0");
    return `${sign}${withoutTrailingZeros(digits.slice(0, 1), digits.slice(1))}e${exponent < 0 ? "-" : "+"}${sized}`;
  }
  if (exponent < 0) return `${sign}${withoutTrailingZeros("0", "0".repeat(-exponent - 1) + digits)}`;
  return `${sign}${withoutTrailingZeros(digits.slice(0, exponent + 1), digits.slice(exponent + 1))}`;
}

function withoutTrailingZeros(whole: string, fraction: string): string {
  const shown = fraction.replace(/0+$/, "");
  return shown === "" ? whole : `${whole}.${shown}`;
}
