/** Runs one line of HMP and gives back what it prints: for the HMP sessions and for `human-monitor-command`. */
import { type Co, isBlockError } from "@spindle/base";
import type { CommandContext } from "./command.ts";
import { parseHmpArguments, withoutBlanks } from "./hmp-arguments.ts";
import { HMP_COMMANDS, type HmpCommand, INFO_COMMANDS, withErrors } from "./hmp-commands.ts";

interface Entry extends HmpCommand {
  /** The commands whose names may follow. */
  readonly below?: readonly HmpCommand[];
}

const HELP: Entry = {
  names: "help|?",
  arguments: [],
  parameters: "[cmd]",
  help: "show the help",
  *run(): Co<string> {
    return helpText("");
  },
};

const INFO: Entry = {
  names: "info",
  arguments: [],
  parameters: "[subcommand]",
  help: "show various information about the system state",
  below: INFO_COMMANDS,
  *run(): Co<string> {
    return helpText("info");
  },
};

const COMMANDS: readonly Entry[] = [...HMP_COMMANDS, HELP, INFO].sort((one, other) =>
  one.names < other.names ? -1 : 1,
);

/** What was found at the start of a line. */
interface Found {
  readonly entry: Entry;
  /** The name as it was typed, with the one above it. */
  readonly typed: string;
  readonly rest: string;
}

/** @returns what the line prints, with CRLF line ends; empty when it prints nothing. */
export function* interpretLine(context: CommandContext, line: string): Co<string> {
  return (yield* run(context, line)).replaceAll("\n", "\r\n");
}

function* run(context: CommandContext, line: string): Co<string> {
  if (withoutBlanks(line) === "") return "";
  const found = find(line);
  if (typeof found === "string") return `unknown command: '${found}'\n`;
  const { entry, typed, rest } = found;
  if (entry === HELP) return helpText(rest);
  let values: ReturnType<typeof parseHmpArguments>;
  try {
    values = parseHmpArguments(entry.names, entry.arguments, rest);
  } catch (error) {
    if (!isBlockError(error)) throw error;
    return `${error.message}\nTry "help ${typed}" for more information\n`;
  }
  return yield* withErrors(entry.run(context, values));
}

/** The command that a line names, or the name that is none. */
function find(line: string, table: readonly Entry[] = COMMANDS, above = ""): Found | string {
  const trimmed = withoutBlanks(line);
  const name = /^[^ \t\v\f\r\n/]*/.exec(trimmed)?.[0] ?? "";
  if (name === "" && above !== "") return above;
  const typed = above === "" ? name : `${above} ${name}`;
  const rest = trimmed.slice(name.length);
  const entry = table.find(({ names }) => names.split("|").includes(name));
  if (entry === undefined) return typed;
  if (entry.below !== undefined && withoutBlanks(rest) !== "") return find(rest, entry.below, typed);
  return { entry, typed, rest };
}

/** The help for the command that a line names, or for all. */
function helpText(line: string): string {
  if (withoutBlanks(line) === "") return COMMANDS.map((entry) => describe(entry)).join("");
  const found = find(line);
  if (typeof found === "string") return `unknown command: '${found}'\n`;
  if (found.entry.below !== undefined) return found.entry.below.map((entry) => describe(entry, "info ")).join("");
  return describe(found.entry, INFO_COMMANDS.includes(found.entry) ? "info " : "");
}

function describe({ names, parameters, help }: HmpCommand, above = ""): string {
  return `${above}${names} ${parameters} -- ${help}\n`;
}
