/** `spindle rebase`: puts another backing file below an image. */
import { driverRegistry, rebaseImage } from "spindle";
import { cacheModes, isDirect } from "../cache-mode.ts";
import { type Command, defineCommand, UsageError } from "../command.ts";
import { EXIT_OK } from "../exit-codes.ts";
import { operandImage } from "../image-name.ts";
import { ACCESS, accessOf, FORCE_SHARE, FORMAT, IMAGE_OPTS } from "../image-options.ts";
import { print, standardOutput } from "../output.ts";
import { percentProgress } from "../percent-display.ts";

export const rebase: Command = defineCommand({
  name: "rebase",
  operands: "FILE",
  operandCount: { least: 1, most: 1, otherwise: "Expecting one image file name" },
  about:
    "Puts another backing file below an image. What the old one shows and the new one does not is copied into the image, so\n" +
    "that it shows the same; with -u only the name is changed. -b '' leaves the image without a backing file.",
  options: {
    format: FORMAT,
    backing: { short: "b", value: "FILE", help: "the new backing file, as its name counts from the image's folder" },
    "backing-format": { short: "F", value: "FORMAT", help: "its format; it has to be told" },
    unsafe: { short: "u", help: "change the name alone, and open no backing file" },
    cache: { short: "t", value: "CACHE", help: "the image's cache mode; it is durable at the end" },
    "source-cache": { short: "T", value: "CACHE", help: "the backing files' cache mode" },
    "progress-bar": { short: "p", help: "show how far it is" },
    quiet: { short: "q", help: "print nothing but errors" },
    "image-opts": IMAGE_OPTS,
    ...ACCESS,
    "force-share": FORCE_SHARE,
  },
  async run(values, [file = ""]) {
    const { format, backing: filename, unsafe, quiet } = values;
    if (filename === undefined && !unsafe)
      throw new UsageError("Must specify backing file (-b) or use unsafe mode (-u)");
    const { cache, sourceCache } = cacheModes(values.cache, values["source-cache"]);
    const backingFormat = values["backing-format"] ?? null;
    if (backingFormat !== null && !driverRegistry().has(backingFormat))
      throw new UsageError(`Invalid format name: '${backingFormat}'`);
    const name = operandImage(file, { format, imageOpts: values["image-opts"], cache });
    const backing = filename === undefined || filename === "" ? null : { filename, format: backingFormat };
    const progress = values["progress-bar"] && !quiet ? percentProgress(standardOutput) : undefined;
    const tell = progress === undefined ? {} : { progress };
    await rebaseImage(name, {
      backing,
      unsafe,
      direct: isDirect(sourceCache),
      ...accessOf(values),
      ...tell,
    });
    if (progress !== undefined) print("\n");
    return EXIT_OK;
  },
});
