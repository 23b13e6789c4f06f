/** JSON as qemu-img prints it: four spaces a level, and keys in the order of QEMU's dictionaries. */
import { dictionaryOrder, writeJson } from "@spindle/monitor";

/** The text of a value, without a line end. Members that are undefined are left out. */
export function prettyJson(value: unknown, indent = ""): string {
  const inner = `${indent}    `;
  if (Array.isArray(value)) {
    const items = value.map((item) => `${inner}${prettyJson(item, inner)}`);
    return items.length === 0 ? `[\n${indent}]` : `[\n${items.join(",\n")}\n${indent}]`;
  }
  if (typeof value !== "object" || value === null) return writeJson(value);
  const members = value as Readonly<Record<string, unknown>>;
  const keys = dictionaryOrder(Object.keys(members).filter((key) => members[key] !== undefined));
  const lines = keys.map((key) => `${inner}${writeJson(key)}: ${prettyJson(members[key], inner)}`);
  return keys.length === 0 ? `{\n${indent}}` : `{\n${lines.join(",\n")}\n${indent}}`;
}
