/** Small files of settings that options name, such as the rules of `blkdebug`. */
import * as fs from "node:fs";
import { BlockError, type Co, MiB } from "@spindle/base";
import { hostSync } from "./host-operation.ts";

const TEXT_BYTES_MAX = MiB;

/**
 * The text of a small file.
 * @param what kind of file it is, for the message
 * @throws {BlockError} as the host's call does, or EFBIG when it is longer than 1 MiB.
 */
export function* readTextFile(filename: string, what: string): Co<string> {
  const attempt = { message: `Could not read ${what}`, operation: "read", path: filename };
  const { size } = hostSync(attempt, () => fs.statSync(filename));
  if (size > TEXT_BYTES_MAX) throw new BlockError("EFBIG", `'${filename}' is too long to be read`, { path: filename });
  return hostSync(attempt, () => fs.readFileSync(filename, "utf8"));
}
