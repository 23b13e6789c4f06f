/** `spindle measure`: how long the file of a new image becomes. */
import { BlockError } from "@spindle/base";
import type { MeasuredSize } from "@spindle/block";
import { measureImage } from "spindle";
import { type Command, defineCommand, UsageError } from "../command.ts";
import { parseOptionLists } from "../create-options.ts";
import { EXIT_OK } from "../exit-codes.ts";
import { operandImage } from "../image-name.ts";
import { ACCESS, accessOf, FORCE_SHARE, FORMAT, IMAGE_OPTS, OUTPUT } from "../image-options.ts";
import { print } from "../output.ts";
import { prettyJson } from "../pretty-json.ts";
import { sizeArgument } from "../size-text.ts";
import { snapshotOption } from "../snapshot-option.ts";

export const measure: Command = defineCommand({
  name: "measure",
  operands: "[FILE]",
  operandCount: { least: 0, most: 1, otherwise: "At most one filename argument is allowed." },
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
  async run(values, [file]) {
    const { size, format, snapshot } = values;
    if (file !== undefined && size !== undefined)
      throw new UsageError("--size N cannot be used together with a filename.");
    if (file === undefined && size === undefined)
      throw new UsageError("Either --size N or one filename must be specified.");
    if (file === undefined && (format !== undefined || snapshot !== undefined || values["image-opts"]))
      throw new BlockError("EINVAL", "--image-opts, -f, and -l require a filename argument.");
    const { backing_file, backing_fmt: _format, size: _ignored, ...options } = parseOptionLists(values.options);
    const source =
      file === undefined
        ? sizeArgument("image size", size ?? "")
        : operandImage(file, { format, imageOpts: values["image-opts"] });
    const measured = await measureImage(source, {
      format: values["target-format"] ?? "raw",
      options,
      ...(snapshot === undefined ? {} : { snapshot: snapshotOption(snapshot) }),
      forceShare: values["force-share"],
      hasBacking: backing_file !== undefined,
      ...accessOf(values),
    });
    if (values.output === "json") print(`${prettyJson(measured)}\n`);
    else print(humanSizes(measured));
    return EXIT_OK;
  },
});

function humanSizes(sizes: MeasuredSize): string {
  const lines = [`required size: ${sizes.required}`, `fully allocated size: ${sizes["fully-allocated"]}`];
  if (sizes.bitmaps !== undefined) lines.push(`bitmaps size: ${sizes.bitmaps}`);
  return `${lines.join("\n")}\n`;
}
