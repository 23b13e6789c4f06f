/** `spindle measure`: how long the file of a new image becomes. */
import { BlockError, SECTOR_SIZE } from "@spindle/base";
import type { MeasuredSize } from "@spindle/block";
import { creatableFormat, measureImage } from "spindle";
import { type Command, defineCommand } from "../command.ts";
import { parseOptionLists } from "../create-options.ts";
import { EXIT_OK } from "../exit-codes.ts";
import { operandImage } from "../image-name.ts";
import { ACCESS, accessOf, FORCE_SHARE, FORMAT, IMAGE_OPTS, OUTPUT } from "../image-options.ts";
import { print } from "../output.ts";
import { prettyJson } from "../pretty-json.ts";
import { hugeSize, sizeArgument } from "../size-text.ts";
import { snapshotOption } from "../snapshot-option.ts";

export const measure: Command = defineCommand({
  name: "measure",
  operands: "[FILE]",
  operandCount: { least: 0, most: Number.POSITIVE_INFINITY, otherwise: "" },
  about: "Tells how long the file of a new image becomes that holds what FILE shows, or an empty disk of --size bytes.",
  options: {
    format: FORMAT,
    "target-format": { short: "O", value: "FORMAT", help: "the new image's format (default: raw)" },
    options: { short: "o", value: "KEY=VALUE,...", many: true, help: "options of the new image" },
    size: { value: "SIZE", help: "an empty disk of so many bytes, instead of a file" },
    snapshot: { short: "l", value: "SNAPSHOT", help: "measure for this internal snapshot, by its id or name" },
    output: OUTPUT,
    "image-opts": IMAGE_OPTS,
    ...ACCESS,
    "force-share": FORCE_SHARE,
  },
  async run(values, operands) {
    const [file] = operands;
    const { size, format, snapshot } = values;
    const { backing_file, backing_fmt: _format, size: _ignored, ...options } = parseOptionLists(values.options);
    const shown = snapshot === undefined ? {} : { snapshot: snapshotOption(snapshot) };
    checkSource(values, operands);
    const target = values["target-format"] ?? "raw";
    const huge = hugeSize(size);
    const show = values.output === "json" ? (sizes: Sizes) => `${prettyJson(sizes)}\n` : humanSizes;
    if (huge !== undefined) {
      print(show(hugeSizes(target, huge)));
      return EXIT_OK;
    }
    const source =
      file === undefined
        ? sizeArgument("image size", size ?? "")
        : operandImage(file, { format, imageOpts: values["image-opts"] });
    const measured = await measureImage(source, {
      format: target,
      options,
      ...shown,
      forceShare: values["force-share"],
      hasBacking: backing_file !== undefined,
      ...accessOf(values),
    });
    print(show(measured));
    return EXIT_OK;
  },
});

type Values = { readonly size?: string | undefined; readonly format?: string | undefined } & {
  readonly snapshot?: string | undefined;
  readonly "image-opts": boolean;
};

/** In qemu-img's order. @throws {BlockError} EINVAL unless there is one thing to measure for. */
function checkSource({ size, format, snapshot, "image-opts": isOptions }: Values, operands: readonly string[]): void {
  const [file] = operands;
  const refuse = (message: string): never => {
    throw new BlockError("EINVAL", message);
  };
  if (operands.length > 1) refuse("At most one filename argument is allowed.");
  if (file === undefined && (format !== undefined || snapshot !== undefined || isOptions))
    refuse("--image-opts, -f, and -l require a filename argument.");
  if (file === undefined && size === undefined) refuse("Either --size N or one filename must be specified.");
  if (file !== undefined && size !== undefined) refuse("--size N cannot be used together with a filename.");
}

/** Bytes. */
type Sizes = { readonly [K in keyof MeasuredSize]: MeasuredSize[K] | bigint };

/** Of a disk that no image here can hold: a raw one would be as long as its disk. */
function hugeSizes(format: string, size: bigint): Sizes {
  creatableFormat(format);
  if (format !== "raw") throw new BlockError("EFBIG", "The image size is too large (try using a larger cluster size)");
  const sectors = (size + BigInt(SECTOR_SIZE) - 1n) / BigInt(SECTOR_SIZE);
  const length = sectors * BigInt(SECTOR_SIZE);
  return { required: length, "fully-allocated": length };
}

function humanSizes(sizes: Sizes): string {
  const lines = [`required size: ${sizes.required}`, `fully allocated size: ${sizes["fully-allocated"]}`];
  if (sizes.bitmaps !== undefined) lines.push(`bitmaps size: ${sizes.bitmaps}`);
  return `${lines.join("\n")}\n`;
}
