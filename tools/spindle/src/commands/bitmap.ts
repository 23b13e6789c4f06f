/** `spindle bitmap`: the persistent bitmaps of an image, which tell what has been written since somebody began to look. */
import { BlockError, isBlockError, parseSize } from "@spindle/base";
import { type Disk, openDisk } from "spindle";
import { type Command, defineCommand, type GivenOption, type OptionValues } from "../command.ts";
import { EXIT_FAILURE, EXIT_OK } from "../exit-codes.ts";
import { given, operandImage } from "../image-name.ts";
import { ACCESS, accessOf, FORMAT, IMAGE_OPTS } from "../image-options.ts";
import { complain } from "../output.ts";

const SWITCHES = ["add", "remove", "clear", "enable", "disable"] as const;

interface Action {
  readonly verb: (typeof SWITCHES)[number] | "merge";
  /** For `merge`: whose marks are taken. */
  readonly source: string;
}

const OPTIONS = {
  add: { help: "make it; nothing is marked in it" },
  remove: { help: "give it up, also when it was left in use" },
  clear: { help: "mark nothing in it any more" },
  enable: { help: "writes mark it from now on" },
  disable: { help: "writes do not mark it any more; with --add, from the beginning" },
  merge: { value: "SOURCE", many: true, help: "mark in it what SOURCE has marked" },
  "source-file": { short: "b", value: "FILE", help: "with --merge: SOURCE is one of this image" },
  "source-format": { short: "F", value: "FORMAT", help: "its format (default: found by looking at it)" },
  granularity: { short: "g", value: "SIZE", help: "with --add: bytes of the disk that one bit stands for" },
  format: FORMAT,
  "image-opts": IMAGE_OPTS,
  ...ACCESS,
} as const;

type Values = OptionValues<typeof OPTIONS>;

export const bitmap: Command = defineCommand({
  name: "bitmap",
  operands: "FILE BITMAP",
  operandCount: { least: 0, most: Number.POSITIVE_INFINITY, otherwise: "" },
  about:
    "Changes the persistent bitmap BITMAP of an image, by one or more actions in the order in which they are given.",
  options: OPTIONS,
  async run(values, operands, order) {
    const actions = actionsIn(order);
    const granularity = sizeOr(values.granularity);
    if (granularity === null) {
      complain("Invalid granularity specified. You may use k, M, G, T, P or E suffixes for");
      complain("kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.");
      return EXIT_FAILURE;
    }
    const wrong = whatIsWrong(values, operands.length, actions);
    if (wrong !== undefined) throw new BlockError("EINVAL", wrong);
    const [file = "", name = ""] = operands;
    const { format } = values;
    const sourceFile = values["source-file"];
    const sourceFormat = values["source-format"];
    const image = operandImage(file, { format, imageOpts: values["image-opts"] });
    const access = accessOf(values);
    await using disk = await openDisk(image.filename, { ...access, ...given(image) });
    const source = sourceFile === undefined ? undefined : operandImage(sourceFile, { format: sourceFormat });
    // Its own backing file may be the image itself.
    const alone = { alone: true, readOnly: true } as const;
    await using other = source && (await openDisk(source.filename, { ...access, ...alone, ...given(source) }));
    for (const action of actions) await act(disk, name, action, { granularity, other });
    return EXIT_OK;
  },
});

/** `--disable` behind `--add` is an action of its own, which comes to the same. */
function actionsIn(order: readonly GivenOption[]): Action[] {
  return order.flatMap(({ name, value = "" }): Action[] => {
    if (name === "merge") return [{ verb: "merge", source: value }];
    const verb = SWITCHES.find((one) => one === name);
    return verb === undefined ? [] : [{ verb, source: "" }];
  });
}

/** @returns null for what is no size */
function sizeOr(text: string | undefined): number | undefined | null {
  if (text === undefined) return undefined;
  try {
    return parseSize(text);
  } catch {
    return null;
  }
}

/** QEMU's words for what does not go together; it does not tell of its help here. */
function whatIsWrong(values: Values, operandCount: number, actions: readonly Action[]): string | undefined {
  const sourceFile = values["source-file"];
  if (operandCount !== 2) return "Expecting filename and bitmap name";
  if (actions.length === 0) return "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge";
  if (values.granularity !== undefined && !actions.some(({ verb }) => verb === "add"))
    return "granularity only supported with --add";
  if (values["source-format"] !== undefined && sourceFile === undefined) return "-F only supported with -b";
  if (sourceFile !== undefined && !actions.some(({ verb }) => verb === "merge"))
    return "Merge bitmap source file only supported with --merge";
  return undefined;
}

interface ActOptions {
  readonly granularity: number | undefined;
  /** The disk that `merge` looks at; the image's own when absent. */
  readonly other: Disk | undefined;
}

async function act(disk: Disk, name: string, { verb, source }: Action, options: ActOptions): Promise<void> {
  try {
    switch (verb) {
      case "add":
        return await disk.addBitmap({ name, granularity: options.granularity, persistent: true });
      case "remove":
        return await disk.removeBitmap(name);
      case "clear":
        return await disk.clearBitmap(name);
      case "merge":
        return await disk.mergeBitmap(name, source, options.other);
      default:
        return await disk.enableBitmap(name, verb === "enable");
    }
  } catch (error) {
    if (!isBlockError(error)) throw error;
    throw new BlockError(
      error.code,
      `Operation ${verb} on bitmap ${name} failed: ${error.message}`,
      error.context,
      error,
    );
  }
}
