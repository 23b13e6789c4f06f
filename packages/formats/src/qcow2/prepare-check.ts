/** What opening an image does before it is checked. */
import type { Co } from "@spindle/base";
import type { BlockNode, Environment, OptionRecord } from "@spindle/block";
import { openEncryption } from "./encryption.ts";
import { warnOfStaleBitmaps } from "./persistent-bitmaps.ts";
import { readHeader } from "./read-header.ts";

/** Warns, and opens the encryption. @throws {BlockError} as `openEncryption` does. */
export function* prepareCheck(file: BlockNode, options: OptionRecord, environment: Environment): Co<void> {
  const header = yield* readHeader(file, true);
  warnOfStaleBitmaps(header, environment);
  yield* openEncryption({ options, environment, children: { file, backing: null } }, header);
}
