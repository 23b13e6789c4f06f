/** Cuts an HMP line into a command's arguments, with QEMU's texts for what is wrong (monitor/hmp.c). */
import { BlockError, isBlockError, MiB, parseSize } from "@spindle/base";

export type HmpArgument =
  /** `-f`: there or not. */
  | { readonly kind: "flag"; readonly name: string; readonly letter: string }
  /** A name, in double quotes where it has blanks. */
  | { readonly kind: "device" | "string"; readonly name: string; readonly optional?: boolean }
  /** A size; without a suffix it counts MiB. */
  | { readonly kind: "size"; readonly name: string; readonly optional?: boolean };

export type HmpValues = Readonly<Record<string, string | number | boolean>>;

const BLANKS = /^[ \t\v\f\r\n]*/;
const SIZE = /^(?:0x[0-9a-f]+|\d+(?:\.\d*)?)[bkmgtpe]?/i;
const STRING_ESCAPES: Readonly<Record<string, string>> = { n: "\n", r: "\r", "\\": "\\", "'": "'", '"': '"' };

/**
 * Reads the arguments from what follows the command's name.
 * @throws {BlockError} EINVAL with the line or lines that QEMU prints.
 */
export function parseHmpArguments(commandName: string, definitions: readonly HmpArgument[], line: string): HmpValues {
  const values: Record<string, string | number | boolean> = {};
  let rest = line;
  for (const definition of definitions) {
    rest = withoutBlanks(rest);
    if (definition.kind === "flag") {
      if (!rest.startsWith("-")) continue;
      const letter = rest.slice(1, 2);
      // Another flag of the same command may be meant.
      if (letter !== definition.letter) {
        if (definitions.some((other) => other.kind === "flag" && other.letter === letter)) continue;
        throw new BlockError("EINVAL", `${commandName}: unsupported option -${letter}`);
      }
      values[definition.name] = true;
      rest = rest.slice(2);
    } else if (rest !== "" || definition.optional !== true) {
      const { value, length } = readArgument(commandName, definition, rest);
      values[definition.name] = value;
      rest = rest.slice(length);
    }
  }
  if (withoutBlanks(rest) === "") return values;
  throw new BlockError("EINVAL", `${commandName}: extraneous characters at the end of line`);
}

export function withoutBlanks(text: string): string {
  return text.replace(BLANKS, "");
}

interface Read<T> {
  readonly value: T;
  readonly length: number;
}

function readArgument(
  commandName: string,
  definition: HmpArgument & { kind: "device" | "string" | "size" },
  text: string,
): Read<string | number> {
  if (definition.kind === "size") return readSize(text);
  const expected = `${commandName}: ${definition.kind === "device" ? "block device name" : "string"} expected`;
  if (text === "") throw new BlockError("EINVAL", expected);
  try {
    return text.startsWith('"') ? readQuoted(text) : readWord(text);
  } catch (error) {
    if (!isBlockError(error)) throw error;
    throw new BlockError("EINVAL", `${error.message}\n${expected}`);
  }
}

function readWord(text: string): Read<string> {
  const value = /^[^ \t\v\f\r\n]*/.exec(text)?.[0] ?? "";
  return { value, length: value.length };
}

function readQuoted(text: string): Read<string> {
  const parts: string[] = [];
  let index = 1;
  for (; index < text.length && text[index] !== '"'; index++) {
    if (text[index] !== "\\") {
      parts.push(text[index] as string);
      continue;
    }
    index += 1;
    const letter = text[index] ?? "";
    const meaning = STRING_ESCAPES[letter];
    if (meaning === undefined) throw new BlockError("EINVAL", `unsupported escape code: '\\${letter}'`);
    parts.push(meaning);
  }
  if (index >= text.length) throw new BlockError("EINVAL", "unterminated string");
  return { value: parts.join(""), length: index + 1 };
}

function readSize(text: string): Read<number> {
  const digits = SIZE.exec(text)?.[0];
  if (digits === undefined) throw new BlockError("EINVAL", "invalid size");
  try {
    return { value: sizeOf(digits), length: digits.length };
  } catch (error) {
    if (!isBlockError(error)) throw error;
    throw new BlockError("EINVAL", "invalid size", {}, error);
  }
}

function sizeOf(digits: string): number {
  if (!/^0x/i.test(digits)) return parseSize(/\d\.?$/.test(digits) ? `${digits}M` : digits);
  const value = parseSize(digits) * MiB;
  if (!Number.isSafeInteger(value)) throw new BlockError("EFBIG", `size '${digits}' is too large`);
  return value;
}
