/** `spindle serve`: serves an image to virtual machines as a vhost-user-blk device, with monitors, and streams it if asked to. */
import { setTimeout as delay } from "node:timers/promises";
import { isBlockError } from "@spindle/base";
import type { BlockNode } from "@spindle/block";
import { QUEUES_MAX, VhostUserServer } from "@spindle/vhost-user";
import type { ErrorPolicy, IoErrorReport } from "@spindle/virtio-blk";
import { type ImageName, openChain, Session, StreamJob, type StreamProgress } from "spindle";
import { cacheModes } from "../cache-mode.ts";
import { type Command, defineCommand, numberOption, type OptionValues, UsageError } from "../command.ts";
import { SignalWatch } from "../ending-signals.ts";
import { EXIT_OK } from "../exit-codes.ts";
import { operandImage } from "../image-name.ts";
import { ACCESS, accessOf, FORMAT, IMAGE_OPTS } from "../image-options.ts";
import { MONITOR_OPTIONS, MonitorService, monitorPlaces } from "../monitor-service.ts";
import { complain, type ProgressOutput, printError, standardOutput } from "../output.ts";
import { progressDisplay } from "../progress-display.ts";
import { ServedMachine } from "../served-machine.ts";

const POLL_US_MAX = 1_000_000;
const SERIAL_BYTES_MAX = 20;
/** The name by which monitors know the disk. */
const NODE_NAME = "disk0";

const OPTIONS = {
  "vhost-user": { value: "PATH", help: "the socket, which nobody but this user may use" },
  format: FORMAT,
  "image-opts": IMAGE_OPTS,
  cache: {
    short: "t",
    value: "none|writeback",
    oneOf: ["none", "writeback"],
    help: "past the page cache, or through it (the default)",
  },
  queues: { value: "N", help: `virtqueues, 1 to ${QUEUES_MAX}, each with a thread of its own (default: 1)` },
  "read-only": { help: "let no guest write" },
  serial: { value: "TEXT", help: `what the disk calls itself, up to ${SERIAL_BYTES_MAX} bytes` },
  "poll-us": {
    value: "N",
    help: "microseconds that an idle queue is polled (default: 32; 0 for never)",
  },
  stream: { help: "fill the image from its backing chain while it is in use, and drop the chain" },
  ...MONITOR_OPTIONS,
  rerror: {
    value: "report|ignore|stop",
    oneOf: ["report", "ignore", "stop"],
    help: "what is done when a read fails (default: report)",
  },
  werror: {
    value: "report|ignore|stop|enospc",
    oneOf: ["report", "ignore", "stop", "enospc"],
    help: "what is done when anything else fails (default: enospc with a monitor, else report)",
  },
  ...ACCESS,
} as const;

export const serve: Command = defineCommand({
  name: "serve",
  operands: "FILE",
  operandCount: { least: 1, most: 1, otherwise: "Expecting one image file name" },
  about:
    "Serves an image to one virtual machine after the other, until a signal or 'quit'. The machine's memory has to be\n" +
    "shared, as with QEMU's memory-backend-memfd,share=on; its device is vhost-user-blk-pci. A write that the guest has\n" +
    `flushed is in the image, whatever happens to this program. Monitors know the disk as '${NODE_NAME}'.`,
  options: OPTIONS,
  async run(values, [file = ""]) {
    const options = serveOptions(values);
    const { format, "image-opts": imageOpts } = values;
    const image = operandImage(file, { format, imageOpts, ...cacheModes(values.cache) });
    const stop = new AbortController();
    using _signals = new SignalWatch(() => stop.abort());
    await using session = new Session(accessOf(values));
    await serveImage({ session, image, options, stop });
    return EXIT_OK;
  },
});

/** @throws {UsageError} when something is missing, out of its range, or does not go with the rest. */
function serveOptions(values: OptionValues<typeof OPTIONS>) {
  const path = values["vhost-user"];
  if (path === undefined) throw new UsageError("say where to serve: --vhost-user=PATH");
  const { stream, serial } = values;
  const readOnly = values["read-only"];
  if (readOnly && stream) throw new UsageError("an image that nobody writes cannot be streamed into");
  if (serial !== undefined && Buffer.byteLength(serial) > SERIAL_BYTES_MAX)
    throw new UsageError(`Invalid serial '${serial}': up to ${SERIAL_BYTES_MAX} bytes`);
  const queues = numberOption("number of queues", values.queues, 1, QUEUES_MAX);
  const pollUs = numberOption("number of microseconds", values["poll-us"], 0, POLL_US_MAX);
  const places = monitorPlaces(values);
  const { rerror = "report", werror = places.length === 0 ? "report" : "enospc" } = values;
  if (places.length === 0 && [rerror, werror].some((policy) => policy === "stop" || policy === "enospc"))
    throw new UsageError("requests that an error stops wait for 'cont' of a monitor: give --qmp or --hmp");
  const chosen = {
    ...(queues === undefined ? {} : { queues }),
    ...(serial === undefined ? {} : { serial }),
    ...(pollUs === undefined ? {} : { pollUs }),
  };
  return {
    path,
    readOnly,
    stream,
    places,
    device: { ...chosen, rerror: rerror as ErrorPolicy, werror: werror as ErrorPolicy },
  };
}

interface Service {
  readonly session: Session;
  readonly image: ImageName;
  readonly options: ReturnType<typeof serveOptions>;
  /** Aborted when the program is to end. */
  readonly stop: AbortController;
}

/** Opens, serves, and returns when a signal has come or `quit` was said. */
async function serveImage({ session, image, options, stop }: Service): Promise<void> {
  const { path, readOnly, places, device } = options;
  const node = await openServed(session, image, readOnly);
  const { threads, thread, runner } = session;
  const ioError = (error: IoErrorReport): void => machine.failed(error);
  const server = await VhostUserServer.start({
    node,
    threads,
    thread,
    runner,
    path,
    report: complain,
    ...device,
    ioError,
  });
  const machine = new ServedMachine(server, node.name);
  let monitors: MonitorService | undefined;
  // A monitor on standard output has it for itself.
  const taken = places.some(({ place }) => place.kind === "stdio");
  const output: ProgressOutput = taken ? { isTTY: false, write: printError } : standardOutput;
  try {
    if (places.length > 0) {
      monitors = await MonitorService.start({ session, places, machine, onQuit: () => stop.abort() });
      machine.monitor = monitors.monitor;
    }
    output.write(`serving '${image.filename}' at '${path}'\n`);
    const streaming = options.stream ? streamServed(session, node, { signal: stop.signal, output }) : undefined;
    await Promise.race([aborted(stop.signal), server.failure]);
    await streaming;
  } finally {
    await monitors?.[Symbol.asyncDispose]();
    await server.close();
  }
}

async function openServed(session: Session, image: ImageName, readOnly: boolean): Promise<BlockNode> {
  const { filename, format, options } = image;
  const node = await session.run(openChain(session.graph, image, { readOnly, nodeName: NODE_NAME }));
  // What a guest writes to the start of a raw disk could make the file look like an image that names other files.
  const told = format !== undefined || options?.["driver"] !== undefined;
  if (!told && node.driver.name === "raw" && !readOnly)
    throw new UsageError(`'${filename}' looks raw, and a guest could make it look otherwise: say -f raw`);
  // A guest keeps in memory what its file systems hold: nobody else may write there.
  await session.run(node.claim({ write: !readOnly, resize: false, exclusive: true }));
  return node;
}

/** Streams while the machine runs. An error of the stream is told, and the disk stays served. */
async function streamServed(
  session: Session,
  node: BlockNode,
  { signal, output }: { readonly signal: AbortSignal; readonly output: ProgressOutput },
): Promise<void> {
  const display = progressDisplay("people", output);
  let last: StreamProgress | undefined;
  try {
    for await (const progress of new StreamJob(session, node, "stream0", { signal })) {
      last = progress;
      display.progress(progress);
    }
    if (last !== undefined) display.result(last, { outcome: "completed" });
  } catch (error) {
    if (last !== undefined) display.result(last, { outcome: signal.aborted ? "cancelled" : "failed" });
    if (signal.aborted) return;
    if (!isBlockError(error)) throw error;
    complain(`the stream failed: ${error.message}; the image is valid, and another stream goes on from there`);
  }
}

/** Keeps the process alive until the signal comes. */
async function aborted(signal: AbortSignal): Promise<void> {
  await delay(2 ** 31 - 1, undefined, { signal }).catch(() => {});
}
