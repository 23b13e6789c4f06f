/** `spindle map`: where the content of a disk stands in its chain of images. */

import { BlockError } from "@spindle/base";
import { type MapExtent, openDisk } from "spindle";
import { type Command, defineCommand } from "../command.ts";
import { EXIT_OK } from "../exit-codes.ts";
import { given, operandImage } from "../image-name.ts";
import { ACCESS, accessOf, FORCE_SHARE, FORMAT, IMAGE_OPTS, OUTPUT } from "../image-options.ts";
import { print } from "../output.ts";
import { optionalSize } from "../size-text.ts";

export const map: Command = defineCommand({
  name: "map",
  operands: "FILE",
  operandCount: { least: 1, most: 1, otherwise: "Expecting one image file name" },
  about: "Lists the runs of a disk and the places of their data; as JSON, also zeros and what no image has.",
  options: {
    format: FORMAT,
    output: OUTPUT,
    "start-offset": { short: "s", value: "OFFSET", help: "begin here (default: 0)" },
    "max-length": { short: "l", value: "LENGTH", help: "list so many bytes (default: to the end)" },
    "image-opts": IMAGE_OPTS,
    ...ACCESS,
    "force-share": FORCE_SHARE,
  },
  async run(values, [operand = ""]) {
    const { format, output } = values;
    const offset = optionalSize("start offset", values["start-offset"]) ?? 0;
    const length = optionalSize("max length", values["max-length"]);
    const { filename, ...image } = operandImage(operand, { format, imageOpts: values["image-opts"] });
    const rest = { ...given(image), ...accessOf(values) };
    await using disk = await openDisk(filename, { ...rest, readOnly: true, forceShare: values["force-share"] });
    const runs = disk.map({ offset, ...(length === undefined ? {} : { length }) });
    await (output === "json" ? printJson(runs, offset) : printHuman(runs));
    return EXIT_OK;
  },
});

async function printJson(runs: AsyncIterable<MapExtent>, offset: number): Promise<void> {
  let count = 0;
  for await (const run of runs) {
    print(`${count === 0 ? "[" : ",\n"}${jsonLine(run)}`);
    count += 1;
  }
  // qemu-img lists one empty run when there is nothing to list.
  const nothing = { start: offset, length: 0, depth: 0, present: false, zero: false, data: false, compressed: false };
  print(count === 0 ? `[${jsonLine(nothing)}]\n` : "]\n");
}

/** Written by hand: the order of these keys is fixed, and is not that of QEMU's dictionaries. */
function jsonLine({ start, length, depth, present, zero, data, offset }: MapExtent): string {
  const place = offset === undefined ? "" : `, "offset": ${offset}`;
  const kind = `"present": ${present}, "zero": ${zero}, "data": ${data}`;
  return `{ "start": ${start}, "length": ${length}, "depth": ${depth}, ${kind}${place}}`;
}

async function printHuman(runs: AsyncIterable<MapExtent>): Promise<void> {
  print(row("Offset", "Length", "Mapped to", "File"));
  for await (const { start, length, data, zero, offset, filename } of runs) {
    if (!data || zero) continue;
    if (offset === undefined || filename === undefined)
      throw new BlockError("ENOTSUP", "File contains external, encrypted or compressed clusters.");
    print(row(hexadecimal(start), hexadecimal(length), hexadecimal(offset), filename));
  }
}

function row(start: string, length: string, place: string, file: string): string {
  return `${start.padEnd(16)}${length.padEnd(16)}${place.padEnd(16)}${file}\n`;
}

/** As C's `%#x` writes a number. */
function hexadecimal(value: number): string {
  return value === 0 ? "0" : `0x${value.toString(16)}`;
}
