/** The value of `-l`: an internal snapshot by its id or name, or `snapshot.id=ID,snapshot.name=NAME`. */
import { BlockError } from "@spindle/base";
import type { SnapshotSelector } from "spindle";
import { parsePairs } from "./key-value.ts";
import { complain } from "./output.ts";

/** @throws {BlockError} EINVAL for options that there are not. */
export function snapshotOption(text: string): SnapshotSelector {
  if (!text.startsWith("snapshot.")) return text;
  const selector: { id?: string; name?: string } = {};
  for (const [key, value] of parsePairs(text)) {
    if (key === "snapshot.id") selector.id = value;
    else if (key === "snapshot.name") selector.name = value;
    else {
      complain(`Invalid parameter '${key}'`);
      throw new BlockError("EINVAL", `Failed in parsing snapshot param '${text}'`);
    }
  }
  return selector;
}
