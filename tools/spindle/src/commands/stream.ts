/** `spindle stream`: fills an image from its backing chain, and drops the chain. */

import { BlockError, isBlockError, MiB } from "@spindle/base";
import { type Disk, openDisk, type StreamJob, type StreamJobOptions, type StreamProgress } from "spindle";
import { type Command, defineCommand, numberOption, type OptionValues, sizeOption, UsageError } from "../command.ts";
import { SignalWatch } from "../ending-signals.ts";
import { EXIT_FAILURE, EXIT_OK, signalExitCode } from "../exit-codes.ts";
import { ACCESS, accessOf, FORMAT } from "../image-options.ts";
import { complain, standardOutput } from "../output.ts";
import { type ProgressDisplay, progressDisplay } from "../progress-display.ts";

const WORKERS_MAX = 32;
const CHUNK_BYTES_MAX: number = 64 * MiB;

/** No guest waits for a copy here, so copies may be long. */
const CHUNK_BYTES_DEFAULT: number = 2 * MiB;

const GOES_ON = "the image is valid, and another stream goes on from there";

const NO_PROGRESS: StreamProgress = {
  transferred: 0,
  size: 0,
  elapsed: 0,
  rate: 0,
  eta: null,
  status: "created",
  ioStatus: "ok",
};

const OPTIONS = {
  format: FORMAT,
  base: { value: "FILE", help: "keep this image of the chain, and what is below it" },
  workers: { value: "N", help: `copy workers, 0 to ${WORKERS_MAX} (default: 2)` },
  chunk: { value: "SIZE", help: "bytes of one copy (default: 2M)" },
  speed: { value: "BYTES/S", help: "copy at most so many bytes a second (default: no limit)" },
  "on-error": {
    value: "POLICY",
    oneOf: ["report", "ignore", "stop", "enospc"],
    help: "report, ignore, stop or enospc (default: report)",
  },
  "progress-bar": { short: "p", help: "show a bar on a terminal, plain lines otherwise" },
  progress: { value: "json", oneOf: ["json"], help: "write the progress, one JSON object a line" },
  ...ACCESS,
} as const;

export const stream: Command = defineCommand({
  name: "stream",
  operands: "FILE",
  operandCount: { least: 1, most: 1, otherwise: "Expecting one image file name" },
  about:
    "Copies into an image what shows through from its backing files, and then drops them. Interrupted, it leaves a valid\n" +
    "image, and the next stream goes on from there.",
  options: OPTIONS,
  async run(values, [filename = ""]) {
    const options = jobOptions(values);
    const { format } = values;
    const display = progressDisplay(
      values.progress === "json" ? "json" : values["progress-bar"] ? "people" : "none",
      standardOutput,
    );
    const interrupt = new AbortController();
    using signals = new SignalWatch(() => interrupt.abort(new BlockError("ECANCELED", `interrupted; ${GOES_ON}`)));
    const { signal } = interrupt;
    const failure = await settle(async () => {
      const rest = { ...accessOf(values), signal, ...(format === undefined ? {} : { format }) };
      const disk = await openDisk(filename, rest);
      const streamed = await settle(() => streamDisk(disk, { ...options, signal }, display));
      const closed = await settle(() => disk.close());
      if ((streamed ?? closed) !== undefined) throw streamed ?? closed;
    });
    if (failure === undefined) return EXIT_OK;
    complain(failure.message, failure.context.hint);
    return signals.received === undefined ? EXIT_FAILURE : signalExitCode(signals.received);
  },
});

function jobOptions(values: OptionValues<typeof OPTIONS>): StreamJobOptions {
  const given = {
    base: values.base,
    workers: numberOption("number of workers", values.workers, 0, WORKERS_MAX),
    chunk: chunkOption(values.chunk) ?? CHUNK_BYTES_DEFAULT,
    speed: sizeOption("speed", values.speed),
    onError: values["on-error"],
  };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
}

function chunkOption(text: string | undefined): number | undefined {
  const size = sizeOption("chunk", text);
  if (size === undefined || (size > 0 && size <= CHUNK_BYTES_MAX)) return size;
  throw new UsageError(`Invalid chunk '${text}': 1 to 64M`);
}

/** The error with which an action ends, or undefined. */
async function settle(action: () => Promise<void>): Promise<BlockError | undefined> {
  try {
    await action();
    return undefined;
  } catch (error) {
    if (isBlockError(error)) return error;
    throw error;
  }
}

async function streamDisk(disk: Disk, options: StreamJobOptions, display: ProgressDisplay): Promise<void> {
  let last: StreamProgress = NO_PROGRESS;
  const shown: ProgressDisplay["progress"] = (progress) => {
    last = progress;
    display.progress(progress);
  };
  const failure = await settle(() => follow(disk.stream(options), shown));
  if (failure !== undefined) {
    const outcome = failure.code === "ECANCELED" ? "cancelled" : "failed";
    display.result(last, { outcome, error: failure.message });
    throw failure;
  }
  // What earlier streams have leaked that were killed.
  await disk.reclaimLeaks();
  display.result(last, { outcome: "completed" });
}

/** Tells the progress to the end. @throws what the job is rejected with. */
async function follow(job: StreamJob, shown: ProgressDisplay["progress"]): Promise<void> {
  for await (const progress of job) {
    shown(progress);
    if (progress.ioStatus === "ok") continue;
    // Nobody is there who could look after the error and let the job go on.
    await job.cancel();
    throw stopped(progress);
  }
}

function stopped({ transferred, ioStatus }: StreamProgress): BlockError {
  const [code, reason] =
    ioStatus === "nospace" ? (["ENOSPC", "No space left"] as const) : (["EIO", "I/O error"] as const);
  return new BlockError(
    code,
    `${reason} at offset ${transferred}: the stream was stopped, and there is no monitor to resume it from; ${GOES_ON}`,
  );
}
