/** Options that several commands take. */
import type { ImageAccess } from "spindle";
import { complain, printError } from "./output.ts";
import { parseObjects } from "./secret-objects.ts";

export const FORMAT = {
  short: "f",
  value: "FORMAT",
  help: "the image's format (default: found by looking at it)",
} as const;

export const OUTPUT = {
  value: "human|json",
  oneOf: ["human", "json"],
  help: "how to print (default: human)",
} as const;

export const FORCE_SHARE = { short: "U", help: "open it although another program may be writing it" } as const;

const ALLOW_BACKING = {
  value: "FOLDER",
  many: true,
  help: "allow backing files in this folder and below it, too",
} as const;

export const OBJECT = {
  value: "secret,id=ID,...",
  many: true,
  help: "a secret: data=TEXT or file=FILE, and format=raw|base64",
} as const;

/** What every command takes that opens images. */
export const ACCESS: { readonly "allow-backing": typeof ALLOW_BACKING; readonly object: typeof OBJECT } = {
  "allow-backing": ALLOW_BACKING,
  object: OBJECT,
};

/** The same for the library. @throws {BlockError} as `parseObjects` does. */
export function accessOf(values: {
  readonly "allow-backing": readonly string[];
  readonly object: readonly string[];
}): ImageAccess {
  return { allowBacking: values["allow-backing"], secrets: parseObjects(values.object), warn: warnOfImage };
}

/** What can be done stands at the end of a line, as qemu-img leaves it. */
export function warnOfImage(sentence: string, hint: string): void {
  complain(`warning: ${sentence}`);
  printError(hint);
}

export const IMAGE_OPTS = { help: "the images are not file names but KEY=VALUE,... as for --blockdev" } as const;
