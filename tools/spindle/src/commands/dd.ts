/** `spindle dd`: copies part of what an image shows into a new image. */
import { convertImage, type ImageName, imageLength } from "spindle";
import { type Command, defineCommand, UsageError } from "../command.ts";
import { EXIT_OK } from "../exit-codes.ts";
import { operandImage } from "../image-name.ts";
import { ACCESS, accessOf, FORCE_SHARE, FORMAT, IMAGE_OPTS } from "../image-options.ts";
import { complain } from "../output.ts";
import { sizeArgument } from "../size-text.ts";

const BLOCK_BYTES_DEFAULT = 512;
const BLOCK_BYTES_MAX = 2 ** 31 - 1;

const KEYS = ["if", "of", "bs", "count", "skip"] as const;
type Operands = { readonly [K in (typeof KEYS)[number]]?: string };

export const dd: Command = defineCommand({
  name: "dd",
  operands: "[bs=SIZE] [count=N] [skip=N] if=FILE of=FILE",
  operandCount: { least: 0, most: Number.POSITIVE_INFINITY, otherwise: "" },
  about: "Copies what an image shows, from block SKIP up to block COUNT, into a new image. Everything is stored.",
  options: {
    format: FORMAT,
    "target-format": { short: "O", value: "FORMAT", help: "the new image's format (default: raw)" },
    "image-opts": IMAGE_OPTS,
    ...ACCESS,
    "force-share": FORCE_SHARE,
  },
  async run(values, words) {
    const operands = parseOperands(words);
    const { if: input, of: output } = operands;
    const blockBytes = blockSize(operands.bs);
    const count = operands.count === undefined ? undefined : number("count", operands.count);
    const skip = operands.skip === undefined ? 0 : number("skip", operands.skip);
    if (input === undefined || output === undefined) throw new UsageError("Must specify both input and output files");
    const forceShare = values["force-share"];
    const access = { ...accessOf(values), forceShare };
    const source: ImageName = operandImage(input, { format: values.format, imageOpts: values["image-opts"] });
    const whole = await imageLength(source, access);
    const end = count === undefined ? whole : Math.min(whole, count * blockBytes);
    const start = skip * blockBytes;
    if (start > end) complain(`${input}: cannot skip to specified offset`);
    await convertImage(source, output, {
      format: values["target-format"] ?? "raw",
      window: { start: Math.min(start, end), length: Math.max(0, end - start) },
      sparseBytes: 0,
      cache: "writeback",
      ...access,
    });
    return EXIT_OK;
  },
});

function parseOperands(words: readonly string[]): Operands {
  const operands: Record<string, string> = {};
  for (const word of words) {
    const at = word.indexOf("=");
    const key = at < 0 ? word : word.slice(0, at);
    if (at < 0 || !(KEYS as readonly string[]).includes(key)) throw new UsageError(`unrecognized operand ${key}`);
    operands[key] = word.slice(at + 1);
  }
  return operands;
}

function number(name: string, text: string): number {
  return sizeArgument(name, text);
}

function blockSize(text = String(BLOCK_BYTES_DEFAULT)): number {
  const size = number("bs", text);
  if (size >= 1 && size <= BLOCK_BYTES_MAX) return size;
  throw new UsageError(`Invalid bs specified. Must be between 1 and ${BLOCK_BYTES_MAX}.`);
}
