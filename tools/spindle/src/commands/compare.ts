/** `spindle compare`: whether two images show the same disk. */
import { type BlockError, isBlockError } from "@spindle/base";
import { type Disk, type ImageAccess, openDisk } from "spindle";
import { type Command, defineCommand } from "../command.ts";
import { type Comparison, compareDisks, MapFailure, ReadFailure } from "../compare-disks.ts";
import { EXIT_COMPARE_MAP, EXIT_COMPARE_OPEN, EXIT_COMPARE_READ, EXIT_DIFFERENT, EXIT_OK } from "../exit-codes.ts";
import { given, operandImage } from "../image-name.ts";
import { ACCESS, accessOf, FORCE_SHARE, FORMAT, IMAGE_OPTS } from "../image-options.ts";
import { complain, print, standardOutput } from "../output.ts";
import { percentLine } from "../percent-display.ts";

export const compare: Command = defineCommand({
  name: "compare",
  operands: "FILE1 FILE2",
  operandCount: { least: 2, most: 2, otherwise: "Expecting two image file names" },
  about:
    "Compares what two images show. Exit code: 0 the same, 1 different, 2 not opened, 3 map not read, 4 data not read.",
  options: {
    format: { ...FORMAT, help: "the first image's format (default: found by looking at it)" },
    "second-format": { short: "F", value: "FORMAT", help: "the second image's format" },
    "image-opts": IMAGE_OPTS,
    progress: { short: "p", help: "show how far it is" },
    quiet: { short: "q", help: "print nothing but errors" },
    strict: { short: "s", help: "sizes and maps must be the same, too" },
    ...ACCESS,
    "force-share": FORCE_SHARE,
  },
  async run(values, [first = "", second = ""]) {
    const { strict, quiet } = values;
    const lines: string[] = [];
    const disks = await openBoth(
      { operand: first, format: values.format, imageOpts: values["image-opts"] },
      { operand: second, format: values["second-format"], imageOpts: values["image-opts"] },
      { ...accessOf(values), forceShare: values["force-share"] },
    );
    if (disks === undefined) return EXIT_COMPARE_OPEN;
    await using one = disks[0];
    await using other = disks[1];
    const tell = values.progress && !quiet ? progressPrinter() : undefined;
    try {
      const warn = async (line: string): Promise<void> => void lines.push(line);
      const result = await compareDisks(one, other, { strict, warn, ...(tell === undefined ? {} : { tell }) });
      lines.push(describe(result));
      if (tell !== undefined) lines.push("");
      return result.same ? EXIT_OK : EXIT_DIFFERENT;
    } catch (error) {
      if (error instanceof ReadFailure || error instanceof MapFailure) {
        complain(error.message);
        return error instanceof ReadFailure ? EXIT_COMPARE_READ : EXIT_COMPARE_MAP;
      }
      throw error;
    } finally {
      // Behind errors, as qemu-img's standard output is.
      if (!quiet) for (const line of lines) print(`${line}\n`);
    }
  },
});

interface Image {
  readonly operand: string;
  readonly format: string | undefined;
  readonly imageOpts: boolean;
}

async function openBoth(
  one: Image,
  other: Image,
  common: ImageAccess & { readonly forceShare: boolean },
): Promise<[Disk, Disk] | undefined> {
  const opened: Disk[] = [];
  try {
    for (const { operand, ...told } of [one, other]) {
      const { filename, ...image } = operandImage(operand, told);
      opened.push(await openDisk(filename, { readOnly: true, ...common, ...given(image) }));
    }
    return opened as [Disk, Disk];
  } catch (error) {
    for (const disk of opened) await disk.close();
    if (!isBlockError(error)) throw error;
    const { message, context } = error as BlockError;
    complain(message, context.hint);
    return undefined;
  }
}

function describe(result: Comparison): string {
  if (result.same) return "Images are identical.";
  switch (result.difference) {
    case "size":
      return "Strict mode: Image size mismatch!";
    case "map":
      return `Strict mode: Offset ${result.offset} block status mismatch!`;
    default:
      return `Content mismatch at offset ${result.offset}!`;
  }
}

function progressPrinter(): (done: number) => void {
  return (done) => standardOutput.write(percentLine(done));
}
