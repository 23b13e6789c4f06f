/** `spindle daemon`: opens a graph of images, and takes commands over QMP and HMP until it is told to end. */
import { rmSync, writeFileSync } from "node:fs";
import { BlockError } from "@spindle/base";
import { Session } from "spindle";
import { parseBlockdev } from "../blockdev-option.ts";
import { type Command, defineCommand, numberOption, UsageError } from "../command.ts";
import { SignalWatch } from "../ending-signals.ts";
import { EXIT_OK } from "../exit-codes.ts";
import { ACCESS, accessOf } from "../image-options.ts";
import { MONITOR_OPTIONS, MonitorService, monitorPlaces, type PlacedMonitor } from "../monitor-service.ts";

const WORKERS_MAX = 32;

export const daemon: Command = defineCommand({
  name: "daemon",
  operands: "",
  operandCount: { least: 0, most: 0, otherwise: "no operand is expected" },
  about:
    "Opens images and serves monitors until 'quit' or a signal. Values of --blockdev are KEY=VALUE,... or JSON, as QEMU's\n" +
    "blockdev-add takes them; a place is unix:PATH, whose socket nobody but this user may use, or stdio.",
  options: {
    blockdev: { value: "OPTIONS", many: true, help: "open a node; a later one may use it by its name" },
    ...MONITOR_OPTIONS,
    workers: { value: "N", help: `copy workers of each stream job, 0 to ${WORKERS_MAX} (default: 2)` },
    pidfile: { value: "FILE", help: "write the process's number here when everything is open" },
    ...ACCESS,
  },
  async run(values) {
    const places = monitorPlaces(values);
    if (places.length === 0) throw new UsageError("a daemon without a monitor takes no commands: give --qmp or --hmp");
    const workers = numberOption("number of workers", values.workers, 0, WORKERS_MAX);
    await using session = new Session({
      ...accessOf(values),
      ...(workers === undefined ? {} : { workers }),
    });
    await serve(session, { blockdevs: values.blockdev, places, pidfile: values.pidfile });
    return EXIT_OK;
  },
});

interface Service {
  readonly blockdevs: readonly string[];
  readonly places: readonly PlacedMonitor[];
  readonly pidfile: string | undefined;
}

/** Opens everything, and returns when `quit` was said or a signal has come. */
async function serve(session: Session, { blockdevs, places, pidfile }: Service): Promise<void> {
  let end = (): void => {};
  const ended = new Promise<void>((resolve) => {
    end = resolve;
  });
  using _signals = new SignalWatch(end);
  for (const text of blockdevs) await openNode(session, text);
  await using _monitors = await MonitorService.start({ session, places, onQuit: end });
  try {
    if (pidfile !== undefined) writePidfile(pidfile);
    await ended;
  } finally {
    if (pidfile !== undefined) rmSync(pidfile, { force: true });
  }
}

async function openNode(session: Session, text: string): Promise<void> {
  const options = parseBlockdev(text, session.graph.registry);
  if (options["node-name"] === undefined)
    throw new BlockError("EINVAL", "'node-name' must be specified for the root node");
  await session.run(session.graph.open(options));
}

function writePidfile(file: string): void {
  try {
    writeFileSync(file, `${process.pid}\n`);
  } catch (error) {
    throw new BlockError("EIO", `Could not write '${file}': ${(error as Error).message}`, { path: file }, error);
  }
}
