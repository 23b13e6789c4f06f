/**
 * What a shell offers for the word that is being typed. The shells' scripts (`shell-script.ts`) ask for it with every
 * completion, so that there is one place that knows, and it is the table that commands are parsed by.
 */
import { driverRegistry } from "spindle";
import { CACHE_MODES } from "../cache-mode.ts";
import type { Command, CommandTable, OptionSpec, OptionSpecs } from "../command.ts";
import { SHELLS } from "./shell-script.ts";

/** A word that could stand there, and what it means. */
export interface Candidate {
  readonly word: string;
  readonly about: string;
}

/** What the values are that help calls by one word. */
const WORDS_OF: Readonly<Record<string, () => readonly string[]>> = {
  FORMAT: formatNames,
  CACHE: () => CACHE_MODES,
};

/**
 * @param words those behind the program's name, the one being typed last; it may be empty
 * @returns what could stand in its place. Nothing stands for names of files, which shells know better.
 */
export async function completeWords(commands: CommandTable, words: readonly string[]): Promise<Candidate[]> {
  const typed = words.at(-1) ?? "";
  const candidates = await candidatesFor(commands, words.slice(0, -1), typed);
  return candidates.filter(({ word }) => word.startsWith(typed));
}

async function candidatesFor(
  commands: CommandTable,
  [name, ...before]: readonly string[],
  typed: string,
): Promise<Candidate[]> {
  if (name === undefined) return Object.entries(commands).map(([word, { summary: about }]) => ({ word, about }));
  if (name === "help") return before.length === 0 ? await candidatesFor(commands, [], typed) : [];
  const command = Object.hasOwn(commands, name) ? await commands[name]?.load() : undefined;
  if (command === undefined || before.includes("--")) return [];
  if (name === "completion" && !typed.startsWith("-")) return SHELLS.map((word) => ({ word, about: "" }));
  const awaited = valueAwaited(command, before.at(-1) ?? "");
  if (awaited !== undefined) return valuesOf(awaited);
  if (!typed.startsWith("-")) return [];
  const [long = "", value] = typed.split("=", 2);
  if (value === undefined) return unusedOptions(command.options, before);
  const spec = command.options[long.slice(2)];
  return spec === undefined ? [] : valuesOf(spec).map(({ word, about }) => ({ word: `${long}=${word}`, about }));
}

/** The option whose value the next word is. */
function valueAwaited({ options }: Command, word: string): OptionSpec | undefined {
  const found = Object.entries(options).find(([long, { short }]) => word === `--${long}` || word === `-${short}`);
  return found?.[1].value === undefined ? undefined : found[1];
}

function valuesOf({ value = "", oneOf }: OptionSpec): Candidate[] {
  const words = oneOf ?? (value.includes("|") ? value.split("|") : WORDS_OF[value]?.());
  return (words ?? []).map((word) => ({ word, about: "" }));
}

function formatNames(): string[] {
  const registry = driverRegistry();
  return registry.names().filter((name) => registry.get(name).kind === "format");
}

/** Those that are not there yet, or may come again. */
function unusedOptions(options: OptionSpecs, before: readonly string[]): Candidate[] {
  const used = ([long, { short }]: [string, OptionSpec]): boolean =>
    before.some((word) => word === `-${short}` || word.split("=", 1)[0] === `--${long}`);
  return Object.entries(options)
    .filter((entry) => entry[1].many === true || !used(entry))
    .map(([long, { help: about }]) => ({ word: `--${long}`, about }));
}
