/**
 * From the words of the command line to an exit code. Every failure is one line on the standard error stream; what is
 * no failure of the user's input, the host or an image is a bug, and said to be one.
 */
import { isBlockError } from "@spindle/base";
import { UsageError } from "./command.ts";
import { COMMANDS } from "./command-table.ts";
import { EXIT_BUG, EXIT_FAILURE, EXIT_OK } from "./exit-codes.ts";
import { complain, OutputClosed, print } from "./output.ts";
import { programName } from "./program-name.ts";
import { QEMU_VERSION, VERSION } from "./version.ts";

const NAME_COLUMN = 10;

/** @returns the exit code. It throws nothing. */
export async function runCommandLine(argv: readonly string[]): Promise<number> {
  const [name = "", ...rest] = argv;
  try {
    return await dispatch(name, rest);
  } catch (error) {
    return reportFailure(error, name);
  }
}

/** Says what went wrong, in one line. @returns the exit code for it. */
export function reportFailure(error: unknown, commandName = ""): number {
  if (error instanceof OutputClosed) return EXIT_OK;
  // Closing has failed after something else had: the first error tells what went wrong.
  if (isSuppressed(error)) return reportFailure(error.suppressed, commandName);
  if (error instanceof UsageError) {
    complainOfUsage(error.message, commandName);
    return EXIT_FAILURE;
  }
  if (isBlockError(error)) {
    complain(error.message, error.context.hint);
    return EXIT_FAILURE;
  }
  const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  complain(`internal error, this is a bug: ${text}`);
  return EXIT_BUG;
}

/** QEMU's programs tell of their help in a line of its own. */
function complainOfUsage(message: string, commandName: string): void {
  const name = programName();
  if (name !== "spindle") {
    complain(message);
    process.stderr.write(`Try '${name} --help' for more information\n`);
    return;
  }
  const help = Object.hasOwn(COMMANDS, commandName) ? `spindle help ${commandName}` : "spindle help";
  complain(`${message} (try '${help}')`);
}

async function dispatch(name: string, argv: readonly string[]): Promise<number> {
  switch (name) {
    case "":
      throw new UsageError(programName() === "spindle" ? "no command is given" : "Not enough arguments");
    case "-V":
    case "--version":
      await print(versionLine());
      return EXIT_OK;
    case "help":
    case "-h":
    case "--help":
      return await help(argv[0]);
    default:
  }
  const command = await load(name);
  if (argv.includes("--help")) return await help(name);
  return await command.run(argv);
}

/** A stand-in also tells which version of QEMU's program it follows. */
function versionLine(): string {
  const name = programName();
  return name === "spindle" ? `spindle version ${VERSION}\n` : `${name} version ${QEMU_VERSION} (Spindle ${VERSION})\n`;
}

async function help(name: string | undefined): Promise<number> {
  await print(name === undefined ? usage() : (await load(name)).usage());
  return EXIT_OK;
}

function load(name: string) {
  const entry = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  if (entry === undefined) throw new UsageError(`Command not found: ${name}`);
  return entry.load();
}

function usage(): string {
  const commands = Object.entries(COMMANDS).map(([name, { summary }]) => `  ${name.padEnd(NAME_COLUMN)}${summary}`);
  return [
    "Usage: spindle COMMAND [options] ...",
    "",
    "Virtual disk images: a block layer with live image streaming.",
    "",
    "Commands:",
    ...commands,
    `  ${"help".padEnd(NAME_COLUMN)}tell more about a command: spindle help COMMAND`,
    "",
    "  spindle --version tells the version.",
    "",
  ].join("\n");
}

function isSuppressed(error: unknown): error is { readonly suppressed: unknown } {
  return error instanceof Error && error.name === "SuppressedError" && "suppressed" in error;
}
