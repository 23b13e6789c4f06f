/** A dictionary as QEMU's programs list it for people. */
import { dictionaryOrder } from "@spindle/monitor";

/** One line a member, in the order of QEMU's dictionaries. */
export function dictionaryLines(data: Readonly<Record<string, unknown>>, indent: string): string[] {
  return dictionaryOrder(Object.keys(data)).map((key) => `${indent}${key.replaceAll("-", " ")}: ${String(data[key])}`);
}
