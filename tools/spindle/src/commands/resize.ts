/** `spindle resize`: makes the disk of an image longer or shorter. */
import { BlockError } from "@spindle/base";
import { openDisk, type ResizeOptions } from "spindle";
import { type Command, defineCommand, UsageError } from "../command.ts";
import { EXIT_FAILURE, EXIT_OK } from "../exit-codes.ts";
import { operandImage } from "../image-name.ts";
import { ACCESS, accessOf, FORMAT, IMAGE_OPTS } from "../image-options.ts";
import { complain, print } from "../output.ts";
import { sizeParameter } from "../size-text.ts";

const MODES = ["off", "metadata", "falloc", "full"] as const;

export const resize: Command = defineCommand({
  name: "resize",
  operands: "FILE [+|-]SIZE",
  operandCount: { least: 2, most: 2, otherwise: "Expecting image file name and size" },
  lastIsOperand: true,
  about: "Changes the length of a disk to SIZE, or by it. What is added reads as zeros.",
  options: {
    format: FORMAT,
    shrink: { help: "the disk may get shorter; what is beyond its new end is lost" },
    preallocation: { value: MODES.join("|"), help: "what is done for the space that is added" },
    quiet: { short: "q", help: "print nothing but errors" },
    "image-opts": IMAGE_OPTS,
    ...ACCESS,
  },
  async run(values, [file = "", sizeText = ""]) {
    const { format, quiet, shrink } = values;
    const preallocation = modeOption(values.preallocation);
    const change = sizeChange(sizeText);
    const { filename, options } = operandImage(file, { format, imageOpts: values["image-opts"] });
    await using disk = await openDisk(filename, {
      ...accessOf(values),
      ...(format === undefined ? {} : { format }),
      ...(options === undefined ? {} : { options }),
    });
    const length = change.sign === 0 ? change.size : disk.length + change.sign * change.size;
    if (length <= 0) throw new BlockError("EINVAL", "New image size must be positive");
    if (length <= disk.length && preallocation !== "off")
      throw new BlockError("EINVAL", "Preallocation can only be used for growing images");
    if (length < disk.length && !shrink) {
      complain("Use the --shrink option to perform a shrink operation.");
      complain(
        "warning: Shrinking an image will delete all data beyond the shrunken image's end. " +
          "Before performing such an operation, make sure there is no important data there.",
      );
      return EXIT_FAILURE;
    }
    await disk.resize(length, { shrink, preallocation });
    if (!quiet) print("Image resized.\n");
    return EXIT_OK;
  },
});

function modeOption(text = "off"): NonNullable<ResizeOptions["preallocation"]> {
  const mode = MODES.find((one) => one === text);
  if (mode === undefined) throw new UsageError(`Invalid preallocation mode '${text}'`);
  return mode;
}

/** A length, or a difference when a sign stands in front. */
function sizeChange(text: string): { readonly sign: -1 | 0 | 1; readonly size: number } {
  const sign = text.startsWith("+") ? 1 : text.startsWith("-") ? -1 : 0;
  return { sign, size: sizeParameter(sign === 0 ? text : text.slice(1)) };
}
