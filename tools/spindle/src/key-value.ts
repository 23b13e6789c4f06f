/** `key=value,key=value` texts, as QEMU's options are written: a comma inside of a value is written twice. */
import { UsageError } from "./command.ts";

/** The pairs of a list, in order. @throws {UsageError} when an entry has no key or no value. */
export function parsePairs(list: string): [key: string, value: string][] {
  return splitAtCommas(list).map((entry) => {
    const at = entry.indexOf("=");
    if (at <= 0) throw new UsageError(`Invalid option list: ${list}`);
    return [entry.slice(0, at), entry.slice(at + 1)];
  });
}

/** The entries of a list; two commas are one inside of an entry. */
export function splitAtCommas(list: string): string[] {
  const entries: string[] = [];
  let entry = "";
  for (let index = 0; index < list.length; index++) {
    const character = list[index] as string;
    if (character !== ",") entry += character;
    else if (list[index + 1] === ",") {
      entry += ",";
      index += 1;
    } else {
      entries.push(entry);
      entry = "";
    }
  }
  return [...entries, entry];
}
