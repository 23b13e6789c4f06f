/** `spindle amend`: changes what an image was created with. */
import { BlockError } from "@spindle/base";
import { amendImage, type ImageName, imageInfo } from "spindle";
import { cacheModes } from "../cache-mode.ts";
import { type Command, defineCommand, UsageError } from "../command.ts";
import { asksForHelp, parseOptionLists } from "../create-options.ts";
import { EXIT_OK } from "../exit-codes.ts";
import { given, operandImage } from "../image-name.ts";
import { ACCESS, accessOf, FORMAT, IMAGE_OPTS } from "../image-options.ts";
import { printAmendHelp } from "../option-help.ts";
import { print, standardOutput } from "../output.ts";
import { percentProgress } from "../percent-display.ts";

/** What is less than this is not shown. */
const SHOWN_LEAST = 0.01;

export const amend: Command = defineCommand({
  name: "amend",
  operands: "FILE",
  operandCount: { least: 0, most: Number.POSITIVE_INFINITY, otherwise: "" },
  about: "Changes options of an image: what it was created with. -o help lists them.",
  options: {
    options: { short: "o", value: "KEY=VALUE,...", many: true, help: "the options, and what they are to be" },
    format: FORMAT,
    cache: { short: "t", value: "CACHE", help: "the image's cache mode; it is durable at the end" },
    "progress-bar": { short: "p", help: "show how far it is" },
    quiet: { short: "q", help: "print nothing but errors" },
    force: { help: "also what may lose data: erase or overwrite keys that are in use" },
    "image-opts": IMAGE_OPTS,
    ...ACCESS,
  },
  async run(values, operands) {
    const { options: lists, format, cache } = values;
    if (lists.length === 0) throw new UsageError("Must specify options (-o)");
    const asked = asksForHelp(lists);
    if (asked && format !== undefined) return printAmendHelp(format);
    const [file, ...more] = operands;
    if (file === undefined || more.length > 0) throw new BlockError("EINVAL", "Expecting one image file name");
    const image = operandImage(file, { format, imageOpts: values["image-opts"], ...cacheModes(cache) });
    if (asked) return await helpFor(image);
    const options = parseOptionLists(lists);
    const bar = values["progress-bar"] && !values.quiet;
    const tell = bar ? shownProgress() : undefined;
    const progress = tell === undefined ? {} : { progress: tell };
    await amendImage(image, { options, force: values.force, ...accessOf(values), ...progress });
    tell?.(1);
    if (bar) print("\n");
    return EXIT_OK;
  },
});

async function helpFor(image: ImageName): Promise<number> {
  const { format } = await imageInfo(image.filename, given(image));
  return printAmendHelp(format);
}

/** Shows the beginning, the end, and what differs from what was shown last. */
function shownProgress(): (done: number) => void {
  const show = percentProgress(standardOutput);
  let shown = 0;
  show(0, 1);
  return (done) => {
    if (done !== 0 && done !== 1 && Math.abs(done - shown) < SHOWN_LEAST) return;
    shown = done;
    show(done, 1);
  };
}
