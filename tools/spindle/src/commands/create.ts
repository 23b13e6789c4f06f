/** `spindle create`: lays out an empty image. */
import { BlockError, isBlockError } from "@spindle/base";
import { type CreatedImage, type CreateImageOptions, creatableFormat, createImage } from "spindle";
import { type Command, defineCommand } from "../command.ts";
import { asksForHelp, formattingLine, parseOptionLists } from "../create-options.ts";
import { EXIT_OK } from "../exit-codes.ts";
import { ACCESS, accessOf } from "../image-options.ts";
import { printCreateHelp } from "../option-help.ts";
import { print } from "../output.ts";
import { hugeSize, sizeArgument, sizeParameter } from "../size-text.ts";

export const create: Command = defineCommand({
  name: "create",
  operands: "FILE [SIZE]",
  operandCount: { least: 1, most: 2, otherwise: "Expecting image file name" },
  about:
    "Creates an image. SIZE is in bytes, or has k, M, G, T, P or E behind it; an overlay is as large as its backing file.",
  options: {
    format: { short: "f", value: "FORMAT", help: "the image's format (default: raw)" },
    backing: { short: "b", value: "FILE", help: "the backing file, as its name counts from the new image's folder" },
    "backing-format": { short: "F", value: "FORMAT", help: "the backing file's format; it has to be told" },
    "backing-unsafe": { short: "u", help: "do not open the backing file" },
    options: {
      short: "o",
      value: "KEY=VALUE,...",
      many: true,
      help: "options of the format, such as cluster_size=64k",
    },
    quiet: { short: "q", help: "print nothing" },
    ...ACCESS,
  },
  insteadOf: (values, [filename]) =>
    asksForHelp(values.options) ? printCreateHelp(values.format, filename) : undefined,
  async run(values, [filename = "", sizeText]) {
    const { backing_file, backing_fmt, size: sizeInOptions, ...options } = parseOptionLists(values.options);
    const format = values.format ?? "raw";
    if (sizeText !== undefined && sizeInOptions !== undefined)
      throw new BlockError("EINVAL", `${filename}: The image size must be specified only once`);
    const backing = { filename: values.backing ?? backing_file, format: values["backing-format"] ?? backing_fmt };
    const size = hugeSize(sizeText ?? sizeInOptions) ?? imageSize(filename, sizeText, sizeInOptions);
    if (typeof size === "bigint") {
      if (!values.quiet) print(`${formattingLine(filename, { format, options, backing, size })}\n`);
      const hint = format === "qcow2" ? " (try using a larger cluster size)" : "";
      throw new BlockError("EFBIG", `${filename}: The image size is too large for file format '${format}'${hint}`);
    }
    const unsafe = values["backing-unsafe"];
    const sized = size === undefined ? {} : { size };
    const planned = ({ size: known }: CreatedImage): void => {
      const line = formattingLine(filename, { format, options, backing, size: known });
      if (!values.quiet) print(`${line}\n`);
      if (backing.filename === undefined && backing.format !== undefined)
        throw new BlockError("EINVAL", "Backing format cannot be used without backing file");
    };
    try {
      const named = backingFile(backing, format);
      await createImage(filename, { format, options, unsafe, ...accessOf(values), planned, ...named, ...sized });
    } catch (error) {
      if (!isBlockError(error)) throw error;
      throw new BlockError(error.code, `${filename}: ${error.message}`, error.context, error);
    }
    return EXIT_OK;
  },
});

/** The size as an operand or as an option. @throws {BlockError} EINVAL when it is none. */
function imageSize(filename: string, operand: string | undefined, option: string | undefined): number | undefined {
  if (operand !== undefined) return sizeArgument("image size", operand);
  try {
    return option === undefined ? undefined : sizeParameter(option);
  } catch (error) {
    if (!isBlockError(error)) throw error;
    throw new BlockError(error.code, `${filename}: ${error.message}`, error.context, error);
  }
}

interface Backing {
  readonly filename?: string | undefined;
  readonly format?: string | undefined;
}

/** What was said of a backing file. @throws {BlockError} EINVAL when the new image can have none. */
function backingFile({ filename, format }: Backing, created: string): Pick<CreateImageOptions, "backing"> {
  if (filename === "") throw new BlockError("EINVAL", "Expected backing file name, got empty string");
  if (filename !== undefined) return { backing: { filename, format } };
  if (format !== undefined && creatableFormat(created).supportsBacking !== true)
    throw new BlockError("EINVAL", `Backing file format not supported for file format '${created}'`);
  return {};
}
