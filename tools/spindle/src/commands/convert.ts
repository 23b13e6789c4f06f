/** `spindle convert`: copies what images show into a new one. */
import { BlockError, isBlockError, MiB } from "@spindle/base";
import { type ConvertImageOptions, convertImage, type ImageName, type StreamProgress } from "spindle";
import { CACHE_MODES, cacheModes, targetCache } from "../cache-mode.ts";
import { type Command, defineCommand, numberOption, type OptionValues } from "../command.ts";
import { asksForHelp, parseOptionLists } from "../create-options.ts";
import { SignalWatch } from "../ending-signals.ts";
import { EXIT_FAILURE, EXIT_OK, signalExitCode } from "../exit-codes.ts";
import { operandImage } from "../image-name.ts";
import { ACCESS, accessOf, FORCE_SHARE, FORMAT, IMAGE_OPTS } from "../image-options.ts";
import { printCreateHelp } from "../option-help.ts";
import { complain, standardOutput } from "../output.ts";
import { percentDisplay } from "../percent-display.ts";
import { type ProgressDisplay, progressDisplay } from "../progress-display.ts";
import { rateOption } from "../rate-option.ts";
import { sizeArgument } from "../size-text.ts";
import { snapshotOption } from "../snapshot-option.ts";

const WORKERS_MAX = 32;
const DEPTH_MAX = 16;
const SPARSE_BYTES_MAX: number = 16 * MiB;

const OPTIONS = {
  format: { ...FORMAT, help: "the sources' format (default: found by looking at them)" },
  "target-format": { short: "O", value: "FORMAT", help: "the target's format (default: raw)" },
  options: { short: "o", value: "KEY=VALUE,...", many: true, help: "options of the new image" },
  backing: {
    short: "B",
    value: "FILE",
    help: "the target's backing file; the copy leaves to it what the source leaves to its own",
  },
  "backing-format": { short: "F", value: "FORMAT", help: "the backing file's format; it has to be told" },
  compress: { short: "c", help: "compress the target's clusters" },
  sparse: {
    short: "S",
    value: "SIZE",
    help: "do not store zeros of at least so many bytes; 0 stores everything (default: 4k)",
  },
  "no-create": { short: "n", help: "copy into an image that is there" },
  "target-is-zero": { help: "with -n: the target reads as zeros" },
  depth: { short: "m", value: "N", help: `reads and writes side by side, 1 to ${DEPTH_MAX} (default: 8)` },
  "out-of-order": { short: "W", help: "write side by side, in any order" },
  workers: { value: "N", help: `threads that compress, 0 to ${WORKERS_MAX} (default: 2)` },
  rate: { short: "r", value: "BYTES/S", help: "copy at most so many bytes a second" },
  cache: { short: "t", value: "CACHE", help: `the target's cache mode: ${CACHE_MODES.join("|")} (default: unsafe)` },
  "source-cache": {
    short: "T",
    value: "CACHE",
    help: "the sources' cache mode (default: writeback)",
  },
  offload: { short: "C", help: "accepted for qemu-img's sake: the host may copy by itself" },
  salvage: { help: "go on after errors of the sources, with zeros in their place" },
  snapshot: { short: "l", value: "SNAPSHOT", help: "copy this internal snapshot, by its id or name" },
  bitmaps: { help: "take the source's persistent bitmaps along" },
  "skip-broken-bitmaps": { help: "with --bitmaps: leave out those that were left in use" },
  "image-opts": IMAGE_OPTS,
  "target-image-opts": { help: "with -n: the target is KEY=VALUE,..." },
  "progress-bar": { short: "p", help: "show how far it is" },
  progress: { value: "json", oneOf: ["json"], help: "write the progress, one JSON object a line" },
  quiet: { short: "q", help: "print nothing but errors" },
  ...ACCESS,
  "force-share": FORCE_SHARE,
} as const;

type Values = OptionValues<typeof OPTIONS>;

export const convert: Command = defineCommand({
  name: "convert",
  operands: "FILE... TARGET",
  operandCount: { least: 2, most: Number.POSITIVE_INFINITY, otherwise: "Must specify image file name" },
  about: "Copies what an image shows, or several one behind the other, into a new image of any format.",
  options: OPTIONS,
  insteadOf(values, operands) {
    checkSwitches(values);
    if (!asksForHelp(values.options)) return undefined;
    return printCreateHelp(values["target-format"], operands.length > 1 ? operands.at(-1) : undefined);
  },
  async run(values, operands) {
    checkSources(values, operands.length - 1);
    const { cache, sourceCache } = modesOf(values);
    const sourceOptions = { format: values.format, imageOpts: values["image-opts"], cache: sourceCache };
    const sources = operands.slice(0, -1).map((text) => operandImage(text, sourceOptions));
    const format = values["target-format"] ?? "raw";
    const file = operands.at(-1) ?? "";
    const isOptions = values["target-image-opts"];
    const target = operandImage(file, isOptions ? { imageOpts: true, cache } : { format, cache });
    const options = { ...copyOptions(values), ...newImage(values, format), ...accessOf(values) };
    const display = values.quiet ? undefined : displayOf(values);
    const interrupt = new AbortController();
    const asked = (): void => interrupt.abort(new BlockError("ECANCELED", `interrupted; '${file}' is not complete`));
    using signals = new SignalWatch(asked);
    try {
      await copy(sources, target, { ...options, signal: interrupt.signal }, display);
    } catch (error) {
      if (!isBlockError(error)) throw error;
      complain(error.message, error.context.hint);
      return signals.received === undefined ? EXIT_FAILURE : signalExitCode(signals.received);
    }
    return EXIT_OK;
  },
});

/** Which options go together, in qemu-img's words and order. */
function checkSwitches(values: Values): void {
  const refuse = (message: string): never => {
    throw new BlockError("EINVAL", message);
  };
  if (values["skip-broken-bitmaps"] && !values.bitmaps) refuse("Use of --skip-broken-bitmaps requires --bitmaps");
  if (values.offload && values.compress) refuse("Cannot enable copy offloading when -c is used");
  if (values.offload && values.sparse !== undefined) refuse("Cannot enable copy offloading when -S is used");
  if (values.offload && values.salvage) refuse("Cannot use copy offloading in salvaging mode");
  if (values["target-image-opts"] && !values["no-create"]) refuse("--target-image-opts requires use of -n flag");
  if (values["no-create"] && values.options.length > 0) refuse("-o has no effect when skipping image creation");
  if (values["target-is-zero"] && !values["no-create"]) refuse("--target-is-zero requires use of -n flag");
  if (values["target-is-zero"] && values.backing !== undefined)
    refuse("Cannot use --target-is-zero when the destination image has a backing file");
}

/** What goes with one source only. */
function checkSources(values: Values, count: number): void {
  if (count < 2) return;
  if (values.bitmaps) throw new BlockError("EINVAL", "Copying bitmaps only possible with single source");
  if (values.snapshot !== undefined) throw new BlockError("EINVAL", "No support for concatenating multiple snapshot");
  if (values.backing === undefined) return;
  throw new BlockError(
    "EINVAL",
    "Having a backing file for the target makes no sense when concatenating multiple input images",
  );
}

/** What is to be created. */
function newImage(values: Values, format: string): Pick<ConvertImageOptions, "format" | "options" | "backing"> {
  // The new disk is as long as the sources, whatever is said, as in qemu-img.
  const { backing_file, backing_fmt, size: _ignored, ...options } = parseOptionLists(values.options);
  const filename = values.backing ?? backing_file;
  const backingFormat = values["backing-format"] ?? backing_fmt;
  if (filename === undefined && backingFormat !== undefined)
    throw new BlockError("EINVAL", "Backing format cannot be used without backing file");
  if (filename !== undefined && backingFormat === undefined)
    throw new BlockError("EINVAL", "Use of backing file requires explicit backing format");
  if (values.compress && options["preallocation"] !== undefined && options["preallocation"] !== "off")
    throw new BlockError("EINVAL", "Compression and preallocation not supported at the same time");
  return {
    format,
    options,
    ...(filename === undefined || backingFormat === undefined ? {} : { backing: { filename, format: backingFormat } }),
  };
}

type CopyOptions = Omit<ConvertImageOptions, "format" | "options" | "backing">;

function copyOptions(values: Values): CopyOptions {
  const { quiet } = values;
  const { cache } = modesOf(values);
  const workers = numberOption("number of workers", values.workers, 0, WORKERS_MAX);
  const sparseBytes = sparseOption(values.sparse);
  const skipped = (name: string): void => complain(`warning: Skipping inconsistent bitmap '${name}'`);
  return {
    ...(values.snapshot === undefined ? {} : { snapshot: snapshotOption(values.snapshot) }),
    ...(values.bitmaps ? { bitmaps: values["skip-broken-bitmaps"] ? { skipped } : {} } : {}),
    forceShare: values["force-share"],
    existing: values["no-create"],
    targetIsZero: values["target-is-zero"],
    compress: values.compress,
    inOrder: !values["out-of-order"],
    depth: depthOption(values.depth),
    speed: rateOption(values.rate),
    cache: targetCache(cache),
    ...(sparseBytes === undefined ? {} : { sparseBytes }),
    ...(workers === undefined ? {} : { workers }),
    ...(values.salvage ? { salvage: (sentence) => quiet || complain(`warning: ${sentence}`) } : {}),
  };
}

function modesOf(values: Values): ReturnType<typeof cacheModes> {
  return cacheModes(values.cache ?? "unsafe", values["source-cache"]);
}

function sparseOption(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const size = sizeArgument("buffer size for sparse output", text);
  if (size % 512 === 0 && size <= SPARSE_BYTES_MAX) return size;
  throw new BlockError(
    "EINVAL",
    `Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 up to ${SPARSE_BYTES_MAX}. ` +
      "Select 0 to disable sparse detection (fully allocates output).",
  );
}

function depthOption(text = "8"): number {
  const depth = Number(text);
  if (/^\d+$/.test(text) && depth >= 1 && depth <= DEPTH_MAX) return depth;
  throw new BlockError(
    "EINVAL",
    `Invalid number of coroutines. Allowed number of coroutines is between 1 and ${DEPTH_MAX}`,
  );
}

function displayOf(values: Values): ProgressDisplay | undefined {
  if (values.progress === "json") return progressDisplay("json", standardOutput);
  return values["progress-bar"] ? percentDisplay(standardOutput) : undefined;
}

async function copy(
  sources: readonly ImageName[],
  target: ImageName,
  options: ConvertImageOptions,
  display: ProgressDisplay | undefined,
): Promise<void> {
  if (display === undefined) return void (await convertImage(sources, target, options));
  let last: StreamProgress | undefined;
  const progress = (now: StreamProgress): void => {
    last = now;
    display.progress(now);
  };
  try {
    await convertImage(sources, target, { ...options, progress });
    if (last !== undefined) display.result(last, { outcome: "completed" });
  } catch (error) {
    if (isBlockError(error) && last !== undefined)
      display.result(last, { outcome: error.code === "ECANCELED" ? "cancelled" : "failed", error: error.message });
    throw error;
  }
}
