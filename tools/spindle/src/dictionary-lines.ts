/** A dictionary as QEMU's programs list it for people. */
import { dictionaryOrder } from "@spindle/monitor";

const STEP = "    ";

/** One line a member, in the order of QEMU's dictionaries, and below it the members of what is no plain value. */
export function dictionaryLines(data: Readonly<Record<string, unknown>>, indent: string): string[] {
  return dictionaryOrder(Object.keys(data)).flatMap((key) =>
    memberLines(`${indent}${key.replaceAll("-", " ")}`, data[key], indent),
  );
}

function memberLines(name: string, value: unknown, indent: string): string[] {
  if (typeof value !== "object" || value === null) return [`${name}: ${String(value)}`];
  const inner = `${indent}${STEP}`;
  if (!Array.isArray(value)) return [`${name}:`, ...dictionaryLines(value as Readonly<Record<string, unknown>>, inner)];
  return [`${name}:`, ...value.flatMap((item, index) => memberLines(`${inner}[${index}]`, item, inner))];
}
