/**
 * QEMU's option `-T`, `--trace`: `[[enable=]PATTERN][,events=FILE][,file=FILE]`. There are no trace events here, as in a
 * QEMU that was built without: the name of one is warned of, and a pattern with `*` or `?` matches none.
 */
import { readFileSync } from "node:fs";
import { BlockError } from "@spindle/base";
import { splitAtCommas } from "./key-value.ts";
import { complain } from "./output.ts";

/** @throws {BlockError} ENOENT when a file of events cannot be read. */
export function takeTraceOption(text: string): void {
  for (const entry of splitAtCommas(text)) {
    const [, key = "enable", value = ""] = /^(?:(enable|events|file)=)?(.*)$/s.exec(entry) ?? [];
    if (key === "enable") warnOfEvent(value);
    else if (key === "events") for (const line of eventNames(value)) warnOfEvent(line);
  }
}

function eventNames(path: string): string[] {
  try {
    const lines = readFileSync(path, "utf8").split("\n");
    return lines.filter((line) => line !== "" && !line.startsWith("#") && !line.startsWith("-"));
  } catch (cause) {
    throw new BlockError("ENOENT", `Could not open the trace events file '${path}'`, { path }, cause);
  }
}

function warnOfEvent(pattern: string): void {
  if (pattern !== "help" && !/[*?]/.test(pattern)) complain(`warning: trace event '${pattern}' does not exist`);
}
