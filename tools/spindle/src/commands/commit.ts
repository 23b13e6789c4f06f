/** `spindle commit`: writes what an image holds into an image below it. */
import { commitImage } from "spindle";
import { cacheModes } from "../cache-mode.ts";
import { type Command, defineCommand } from "../command.ts";
import { EXIT_OK } from "../exit-codes.ts";
import { operandImage } from "../image-name.ts";
import { ACCESS, accessOf, FORMAT, IMAGE_OPTS } from "../image-options.ts";
import { print, standardOutput } from "../output.ts";
import { percentProgress } from "../percent-display.ts";
import { rateOption } from "../rate-option.ts";

export const commit: Command = defineCommand({
  name: "commit",
  operands: "FILE",
  operandCount: { least: 1, most: 1, otherwise: "Expecting one image file name" },
  about:
    "Writes what an image holds into its backing file, and empties the image. The backing file grows where it has to.",
  options: {
    format: FORMAT,
    base: { short: "b", value: "FILE", help: "write to this image of the chain, and leave all others as they are" },
    drop: { short: "d", help: "leave the image as it is" },
    rate: { short: "r", value: "BYTES/S", help: "copy at most so many bytes a second" },
    cache: { short: "t", value: "CACHE", help: "the images' cache mode; both are durable at the end" },
    "progress-bar": { short: "p", help: "show how far it is" },
    quiet: { short: "q", help: "print nothing but errors" },
    "image-opts": IMAGE_OPTS,
    ...ACCESS,
  },
  async run(values, [file = ""]) {
    const { cache } = cacheModes(values.cache);
    const { base, drop, quiet, format } = values;
    const name = operandImage(file, { format, imageOpts: values["image-opts"], cache });
    const progress = values["progress-bar"] && !quiet ? percentProgress(standardOutput) : undefined;
    await commitImage(name, {
      keep: drop,
      speed: rateOption(values.rate),
      ...accessOf(values),
      ...(base === undefined ? {} : { base }),
      ...(progress === undefined ? {} : { progress }),
    });
    if (progress !== undefined) print("\n");
    if (!quiet) print("Image committed.\n");
    return EXIT_OK;
  },
});
