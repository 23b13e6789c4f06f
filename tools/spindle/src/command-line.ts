/**
 * From the words of the command line to an exit code. Every failure is one line on the standard error stream; what is
 * no failure of the user's input, the host or an image is a bug, and said to be one.
 */
import { isBlockError } from "@spindle/base";
import { UsageError } from "./command.ts";
import { COMMANDS } from "./command-table.ts";
import { EXIT_BUG, EXIT_FAILURE, EXIT_OK } from "./exit-codes.ts";
import { complain, OutputClosed, print, printError } from "./output.ts";
import { programName, versionLine } from "./program-name.ts";
import { takeTraceOption } from "./trace-option.ts";

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
    printError(`Try '${name} --help' for more information\n`);
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
      print(versionLine());
      return EXIT_OK;
    case "help":
    case "-h":
    case "--help":
      return await help(argv[0]);
    case "-T":
    case "--trace":
      return await trace(argv);
    default:
  }
  const command = await load(name);
  const end = argv.indexOf("--");
  if ((end < 0 ? argv : argv.slice(0, end)).some((word) => word === "--help" || word === "-h")) return await help(name);
  return await command.run(argv);
}

/** The command stands behind the option's value; there is nothing to do without one, as when events are listed. */
async function trace([value, name, ...rest]: readonly string[]): Promise<number> {
  if (value === undefined) throw new UsageError("missing argument for option '-T'");
  takeTraceOption(value);
  return value === "help" ? EXIT_OK : await dispatch(name ?? "", rest);
}

async function help(name: string | undefined): Promise<number> {
  print(
    name === undefined ? await (await import("./help-text.ts")).helpText() : (await load(name)).usage(calledAs(name)),
  );
  return EXIT_OK;
}

/** QEMU's io is a program of its own. */
function calledAs(name: string): string {
  const program = programName();
  return program === "qemu-io" ? program : `${program} ${name}`;
}

function load(name: string) {
  const entry = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  if (entry === undefined) throw new UsageError(`Command not found: ${name}`);
  return entry.load();
}

function isSuppressed(error: unknown): error is { readonly suppressed: unknown } {
  return error instanceof Error && error.name === "SuppressedError" && "suppressed" in error;
}
