/** Options that several commands take. */

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

export const ALLOW_BACKING = {
  value: "FOLDER",
  many: true,
  help: "allow backing files in this folder and below it, too",
} as const;

export const IMAGE_OPTS = { help: "the images are not file names but KEY=VALUE,... as for --blockdev" } as const;
