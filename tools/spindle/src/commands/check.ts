/** `spindle check`: what is wrong with an image, and its repair. */
import { BlockError, errnoText, isBlockError } from "@spindle/base";
import type { Repair } from "@spindle/block";
import { type CheckImageOptions, checkImage, type ImageCheck, NoCheckError } from "spindle";
import { type Command, defineCommand, UsageError } from "../command.ts";
import { EXIT_CHECK_CORRUPT, EXIT_CHECK_LEAKS, EXIT_CHECK_UNSUPPORTED, EXIT_FAILURE, EXIT_OK } from "../exit-codes.ts";
import { operandImage } from "../image-name.ts";
import { FORCE_SHARE, FORMAT, IMAGE_OPTS, OBJECT, OUTPUT, warnOfImage } from "../image-options.ts";
import { complain, print, printError } from "../output.ts";
import { prettyJson } from "../pretty-json.ts";
import { parseObjects } from "../secret-objects.ts";

const CACHE_MODES: readonly string[] = ["none", "off", "writeback", "writethrough", "directsync", "unsafe"];

export const check: Command = defineCommand({
  name: "check",
  operands: "FILE",
  operandCount: { least: 1, most: 1, otherwise: "Expecting one image file name" },
  about:
    "Checks and repairs an image. Exit code: 0 sound, 1 not checked, 2 corrupt, 3 leaks, 63 the format has no check.",
  options: {
    format: FORMAT,
    output: OUTPUT,
    repair: { short: "r", value: "leaks|all", help: "give leaked clusters back, or repair everything" },
    cache: { short: "T", value: "CACHE", help: "the image's cache mode" },
    quiet: { short: "q", help: "print nothing but errors" },
    "image-opts": IMAGE_OPTS,
    "force-share": FORCE_SHARE,
    object: OBJECT,
  },
  async run(values, [operand = ""]) {
    const { format, output, quiet, cache = "writeback" } = values;
    const repair = repairOption(values.repair);
    const secrets = parseObjects(values.object);
    if (!CACHE_MODES.includes(cache)) throw new BlockError("EINVAL", `Invalid source cache option: ${cache}`);
    if (values["force-share"] && repair !== "none")
      throw new BlockError(
        "EINVAL",
        `Could not open '${operand}': force-share=on can only be used with read-only images`,
      );
    const { filename, options } = operandImage(operand, { format, imageOpts: values["image-opts"] });
    const direct = cache === "none" || cache === "off" || cache === "directsync";
    const report = (line: string): void => printError(`${line}\n`);
    try {
      const say = (text: string): void => {
        if (!quiet) print(text);
      };
      const found = await checkAndDoubleCheck(
        filename,
        { format, options, secrets, direct, repair, report, warn: warnOfImage },
        output === "json" ? undefined : say,
      );
      say(output === "json" ? jsonCheck(filename, found) : humanCheck(found));
      if (found.checkErrors > 0) complain("Check failed");
      return exitCode(found);
    } catch (error) {
      if (error instanceof NoCheckError) {
        complain(error.message);
        return EXIT_CHECK_UNSUPPORTED;
      }
      if (!isBlockError(error) || error.message.startsWith("Could not open")) throw error;
      report(`ERROR ${error.message}`);
      complain(`Check failed: ${errnoText(error.code)}`);
      return EXIT_FAILURE;
    }
  },
});

function repairOption(text: string | undefined): Repair {
  if (text === undefined) return "none";
  if (text === "leaks" || text === "all") return text;
  throw new UsageError(`Unknown option value for -r (expecting 'leaks' or 'all'): ${text}`);
}

/** What was repaired is checked once more, so that what is told is what is there now. */
async function checkAndDoubleCheck(
  filename: string,
  request: CheckImageOptions,
  say: ((text: string) => void) | undefined,
): Promise<ImageCheck> {
  const first = await checkImage(filename, request);
  const { corruptionsFixed, leaksFixed } = first;
  if (corruptionsFixed === 0 && leaksFixed === 0) return first;
  say?.(
    `The following inconsistencies were found and repaired:\n\n    ${leaksFixed} leaked clusters\n` +
      `    ${corruptionsFixed} corruptions\n\nDouble checking the fixed image now...\n`,
  );
  return {
    ...(await checkImage(filename, { ...request, repair: "none", warn: undefined })),
    corruptionsFixed,
    leaksFixed,
  };
}

function exitCode({ checkErrors, corruptions, leaks }: ImageCheck): number {
  if (checkErrors > 0) return EXIT_FAILURE;
  if (corruptions > 0) return EXIT_CHECK_CORRUPT;
  return leaks > 0 ? EXIT_CHECK_LEAKS : EXIT_OK;
}

/** Numbers that are 0 are left out, as qemu-img does, but for the errors of the check. */
function jsonCheck(filename: string, found: ImageCheck): string {
  const numbers = {
    "image-end-offset": found.imageEndOffset,
    "total-clusters": found.totalClusters,
    corruptions: found.corruptions,
    leaks: found.leaks,
    "corruptions-fixed": found.corruptionsFixed,
    "leaks-fixed": found.leaksFixed,
    "allocated-clusters": found.allocatedClusters,
    "fragmented-clusters": found.fragmentedClusters,
    "compressed-clusters": found.compressedClusters,
  };
  const present = Object.fromEntries(Object.entries(numbers).filter(([, number]) => number !== 0));
  return `${prettyJson({ filename, format: found.format, "check-errors": found.checkErrors, ...present })}\n`;
}

function humanCheck(found: ImageCheck): string {
  const { corruptions, leaks, checkErrors, totalClusters, allocatedClusters, imageEndOffset } = found;
  let text = corruptions + leaks + checkErrors === 0 ? "No errors were found on the image.\n" : "";
  if (corruptions > 0)
    text +=
      `\n${corruptions} errors were found on the image.\n` +
      "Data may be corrupted, or further writes to the image may corrupt it.\n";
  if (leaks > 0)
    text +=
      `\n${leaks} leaked clusters were found on the image.\n` +
      "This means waste of disk space, but no harm to data.\n";
  if (checkErrors > 0) text += `\n${checkErrors} internal errors have occurred during the check.\n`;
  if (totalClusters > 0 && allocatedClusters > 0) {
    const percent = (part: number, whole: number): string => `${((part * 100) / whole).toFixed(2)}%`;
    text +=
      `${allocatedClusters}/${totalClusters} = ${percent(allocatedClusters, totalClusters)} allocated, ` +
      `${percent(found.fragmentedClusters, allocatedClusters)} fragmented, ` +
      `${percent(found.compressedClusters, allocatedClusters)} compressed clusters\n`;
  }
  if (imageEndOffset > 0) text += `Image end offset: ${imageEndOffset}\n`;
  return text;
}
