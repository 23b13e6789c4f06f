/** `spindle io`: reads and writes an image command by command, as qemu-io does. The commands stand in `io/`. */
import { createInterface } from "node:readline/promises";
import { type Command, defineCommand, UsageError } from "../command.ts";
import { EXIT_FAILURE, EXIT_OK } from "../exit-codes.ts";
import { type ImageName, imageFilename, imageOptions } from "../image-name.ts";
import { ACCESS, accessOf, FORCE_SHARE, FORMAT } from "../image-options.ts";
import { COMMANDS } from "../io/command-table.ts";
import { IoShell } from "../io/io-shell.ts";
import { cacheMode, checkAioMode, DEFAULT_MODE, discardMode, type OpenMode } from "../io/open-mode.ts";
import { takeTraceOption } from "../trace-option.ts";

const PROMPT = "qemu-io> ";

export const io: Command = defineCommand({
  name: "io",
  operands: "[FILE]",
  operandCount: { least: 0, most: 1, otherwise: "Expecting one image file name" },
  about:
    "Runs commands on an image: those given with -c, or those that are typed. '-c help' lists them. Answers as qemu-io does.",
  options: {
    cmd: { short: "c", value: "COMMAND", many: true, help: "run this command; may be given several times" },
    format: FORMAT,
    "read-only": { short: "r", help: "open it read-only" },
    snapshot: { short: "s", help: "write to a file that is gone afterwards" },
    nocache: { short: "n", help: "as --cache=none" },
    "copy-on-read": { short: "C", help: "keep in the image what is read from its backing files" },
    misalign: { short: "m", help: "accepted for qemu-io's sake" },
    "native-aio": { short: "k", help: "accepted for qemu-io's sake" },
    aio: { short: "i", value: "threads|native|io_uring", help: "accepted for qemu-io's sake" },
    cache: { short: "t", value: "CACHE", help: "none, writethrough (the default), writeback, directsync or unsafe" },
    discard: { short: "d", value: "ignore|unmap", help: "what becomes of discards (default: unmap)" },
    trace: { short: "T", value: "SPEC", many: true, help: "accepted for qemu-io's sake: there are no trace events" },
    "image-opts": { help: "FILE is KEY=VALUE,..., the options of the image's nodes" },
    "force-share": FORCE_SHARE,
    ...ACCESS,
  },
  async run(values, [file]) {
    const { format, cmd: commands } = values;
    for (const text of values.trace) takeTraceOption(text);
    const byOptions = values["image-opts"];
    if (byOptions && format !== undefined) throw new UsageError("--image-opts and -f are mutually exclusive");
    await using shell = new IoShell({
      commands: COMMANDS,
      imageOptions: byOptions,
      ...accessOf(values),
    });
    if (file !== undefined) {
      const pairs = format === undefined ? [] : [["driver", format] as const];
      const name = (): ImageName => (byOptions ? imageOptions(file) : imageFilename(file, pairs));
      if (!(await shell.attempt(() => shell.open(byOptions ? "" : file, openMode(values), name)))) return EXIT_FAILURE;
    }
    if (commands.length === 0) await converse(shell);
    for (const command of commands) if (!shell.ended) await shell.run(command);
    await shell.attempt(() => shell.close());
    return shell.failed ? EXIT_FAILURE : EXIT_OK;
  },
});

interface ModeOptions {
  readonly "read-only": boolean;
  readonly "force-share": boolean;
  readonly snapshot: boolean;
  readonly nocache: boolean;
  readonly "copy-on-read": boolean;
  readonly aio: string | undefined;
  readonly cache: string | undefined;
  readonly discard: string | undefined;
}

/** @throws {UsageError} when it contradicts itself. */
function openMode(values: ModeOptions): OpenMode {
  const { snapshot, nocache, cache, discard, aio } = values;
  const { "read-only": readOnly, "force-share": forceShare, "copy-on-read": copyOnRead } = values;
  let mode = { ...DEFAULT_MODE, readOnly, forceShare, snapshot, copyOnRead };
  if (nocache) mode = cacheMode(mode, "none");
  if (cache !== undefined) mode = cacheMode(mode, cache);
  if (discard !== undefined) mode = discardMode(mode, discard);
  if (aio !== undefined) checkAioMode(aio);
  return mode;
}

/** Takes commands from the standard input until it ends. A terminal gets a history, and names completed. */
async function converse(shell: IoShell): Promise<void> {
  const terminal = process.stdin.isTTY === true;
  const names = shell.commands.map(({ name }) => name);
  const completer = (line: string): [string[], string] => [names.filter((name) => name.startsWith(line)), line];
  const lines = createInterface({ input: process.stdin, ...(terminal ? { output: process.stdout, completer } : {}) });
  const prompt = (): void => {
    if (terminal) lines.prompt();
    else shell.print(PROMPT);
    shell.flush();
  };
  lines.setPrompt(PROMPT);
  prompt();
  for await (const line of lines) {
    await shell.run(line);
    if (shell.ended) break;
    prompt();
  }
  lines.close();
  process.stdin.destroy();
  if (terminal && !shell.ended) shell.print("\n");
}
