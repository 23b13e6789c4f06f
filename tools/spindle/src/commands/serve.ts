/** `spindle serve`: serves an image to virtual machines as a vhost-user-blk device, and streams it meanwhile if asked to. */
import { setTimeout as delay } from "node:timers/promises";
import { isBlockError } from "@spindle/base";
import type { BlockNode } from "@spindle/block";
import { QUEUES_MAX, VhostUserServer } from "@spindle/vhost-user";
import { openChain, Session, StreamJob, type StreamProgress } from "spindle";
import { type Command, defineCommand, numberOption, type OptionValues, UsageError } from "../command.ts";
import { SignalWatch } from "../ending-signals.ts";
import { EXIT_OK } from "../exit-codes.ts";
import { ALLOW_BACKING, FORMAT } from "../image-options.ts";
import { complain, print, standardOutput } from "../output.ts";
import { progressDisplay } from "../progress-display.ts";

const POLL_US_MAX = 1_000_000;
const SERIAL_BYTES_MAX = 20;

const OPTIONS = {
  "vhost-user": { value: "PATH", help: "the socket, which nobody but this user may use" },
  format: FORMAT,
  queues: { value: "N", help: `virtqueues, 1 to ${QUEUES_MAX}, each with a thread of its own (default: 1)` },
  "read-only": { help: "let no guest write" },
  serial: { value: "TEXT", help: `what the disk calls itself, up to ${SERIAL_BYTES_MAX} bytes` },
  "poll-us": {
    value: "N",
    help: "microseconds that an idle queue is polled (default: 32; 0 for never)",
  },
  stream: { help: "fill the image from its backing chain while it is in use, and drop the chain" },
  "allow-backing": ALLOW_BACKING,
} as const;

export const serve: Command = defineCommand({
  name: "serve",
  operands: "FILE",
  operandCount: { least: 1, most: 1, otherwise: "Expecting one image file name" },
  about:
    "Serves an image to one virtual machine after the other, until a signal. The machine's memory has to be shared, as with\n" +
    "QEMU's memory-backend-memfd,share=on; its device is vhost-user-blk-pci. A write that the guest has flushed is in the\n" +
    "image, whatever happens to this program.",
  options: OPTIONS,
  async run(values, [filename = ""]) {
    const path = values["vhost-user"];
    if (path === undefined) throw new UsageError("say where to serve: --vhost-user=PATH");
    const stop = new AbortController();
    using _signals = new SignalWatch(() => stop.abort());
    await using session = new Session({ allowBacking: values["allow-backing"] });
    await serveImage({ session, filename, path, values, signal: stop.signal });
    return EXIT_OK;
  },
});

interface Service {
  readonly session: Session;
  readonly filename: string;
  readonly path: string;
  readonly values: OptionValues<typeof OPTIONS>;
  readonly signal: AbortSignal;
}

/** Opens, serves, and returns when a signal has come. */
async function serveImage({ session, filename, path, values, signal }: Service): Promise<void> {
  const readOnly = values["read-only"];
  if (readOnly && values.stream) throw new UsageError("an image that nobody writes cannot be streamed into");
  const { serial } = values;
  if (serial !== undefined && Buffer.byteLength(serial) > SERIAL_BYTES_MAX)
    throw new UsageError(`Invalid serial '${serial}': up to ${SERIAL_BYTES_MAX} bytes`);
  const queues = numberOption("number of queues", values.queues, 1, QUEUES_MAX);
  const pollUs = numberOption("number of microseconds", values["poll-us"], 0, POLL_US_MAX);
  const node = await session.run(openChain(session.graph, { filename, format: values.format }, { readOnly }));
  // What a guest writes to the start of a raw disk could make the file look like an image that names other files.
  if (values.format === undefined && node.driver.name === "raw" && !readOnly)
    throw new UsageError(`'${filename}' looks raw, and a guest could make it look otherwise: say -f raw`);
  // A guest keeps in memory what its file systems hold: nobody else may write there.
  await session.run(node.claim({ write: !readOnly, resize: false, exclusive: true }));
  const { threads, thread, runner } = session;
  const server = await VhostUserServer.start({
    node,
    threads,
    thread,
    runner,
    path,
    report: complain,
    ...(queues === undefined ? {} : { queues }),
    ...(serial === undefined ? {} : { serial }),
    ...(pollUs === undefined ? {} : { pollUs }),
  });
  try {
    print(`serving '${filename}' at '${path}'\n`);
    const streaming = values.stream ? streamServed(session, node, signal) : undefined;
    await Promise.race([aborted(signal), server.failure]);
    await streaming;
  } finally {
    await server.close();
  }
}

/** Streams while the machine runs. An error of the stream is told, and the disk stays served. */
async function streamServed(session: Session, node: BlockNode, signal: AbortSignal): Promise<void> {
  const display = progressDisplay("people", standardOutput);
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
