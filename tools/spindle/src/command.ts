/**
 * How a command of the program is described: its operands and options, once, for parsing and for its help. A command
 * file exports what `defineCommand` makes of the description and of the function that does the work.
 */
import { parseArgs } from "node:util";
import { BlockError, type ErrnoName, parseSize } from "@spindle/base";

/** An option; without `value` it is a switch. */
export interface OptionSpec {
  /** One letter. */
  readonly short?: string;
  /** What stands for the value in the help. */
  readonly value?: string;
  /** It may be given several times. */
  readonly many?: true;
  /** The words that the value may be. */
  readonly oneOf?: readonly string[];
  readonly help: string;
}

export type OptionSpecs = Readonly<Record<string, OptionSpec>>;

type ValueOf<S extends OptionSpec> = S extends { readonly value: string }
  ? S extends { readonly many: true }
    ? readonly string[]
    : string | undefined
  : boolean;

/** The parsed values: texts, lists of texts, and booleans for switches. */
export type OptionValues<O extends OptionSpecs> = { readonly [K in keyof O]: ValueOf<O[K]> };

export interface CommandDescription<O extends OptionSpecs> {
  readonly name: string;
  /** The operands as the help shows them. */
  readonly operands: string;
  /** How many operands there have to be, and what is said when there are not. */
  readonly operandCount: { readonly least: number; readonly most: number; readonly otherwise: string };
  /** What the command does, in a sentence or two. */
  readonly about: string;
  readonly options: O;
  /** The last word is an operand, even when it begins with a dash. */
  readonly lastIsOperand?: true;
  /** Done instead, however many operands there are, when it gives an exit code. */
  insteadOf?(values: OptionValues<O>, operands: readonly string[]): number | undefined;
  /**
   * @param given the options in the order of the command line, for commands to which it matters
   * @returns the exit code.
   */
  run(values: OptionValues<O>, operands: readonly string[], given: readonly GivenOption[]): Promise<number>;
}

/** An option as it stands in the command line; a switch has no value. */
export interface GivenOption {
  readonly name: string;
  readonly value: string | undefined;
}

export interface Command {
  readonly operands: string;
  readonly options: OptionSpecs;
  /** @param program what the user called: the program's name and the command's */
  usage(program: string): string;
  /** @throws {UsageError} when it does not understand the arguments, and {BlockError} when it fails. */
  run(argv: readonly string[]): Promise<number>;
}

/** A command before it is loaded. */
export interface CommandEntry {
  readonly summary: string;
  load(): Promise<Command>;
}

export type CommandTable = Readonly<Record<string, CommandEntry>>;

/** The user wrote what no command understands. */
export class UsageError extends BlockError {
  constructor(message: string, code: ErrnoName = "EINVAL") {
    super(code, message);
  }
}

export function defineCommand<const O extends OptionSpecs>(description: CommandDescription<O>): Command {
  const { operands: operandText, options } = description;
  return {
    operands: operandText,
    options,
    usage: (program) => usageText(program, description),
    async run(argv) {
      const last = description.lastIsOperand === true ? argv.slice(-1) : [];
      const { values, operands: others, given } = parse(description.options, argv.slice(0, argv.length - last.length));
      const operands = [...others, ...last];
      const instead = description.insteadOf?.(values, operands);
      if (instead !== undefined) return instead;
      const { least, most, otherwise } = description.operandCount;
      if (operands.length < least || operands.length > most) throw new UsageError(otherwise);
      return await description.run(values, operands, given);
    },
  };
}

/** The value of an option that is a whole number. @throws {UsageError} when it is none in the range. */
export function numberOption(name: string, text: string | undefined, least: number, most: number): number | undefined {
  if (text === undefined) return undefined;
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= least && value <= most) return value;
  throw new UsageError(`Invalid ${name} '${text}': a whole number from ${least} to ${most}`);
}

/**
 * The value of an option that qemu-img has not and that is a size, in bytes; of its own options `size-text.ts` speaks.
 * @throws {UsageError} when it is no size.
 */
export function sizeOption(name: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  try {
    return parseSize(text);
  } catch {
    throw new UsageError(`Invalid ${name} '${text}': a number of bytes, or one with k, M, G, T, P or E behind it`);
  }
}

function parse<O extends OptionSpecs>(
  specs: O,
  argv: readonly string[],
): { values: OptionValues<O>; operands: string[]; given: GivenOption[] } {
  const options = Object.fromEntries(Object.entries(specs).map(([name, spec]) => [name, parserOption(spec)]));
  const args = withValues(specs, fullNames(Object.keys(specs), argv));
  const parsed = understand(() => parseArgs({ args, options, allowPositionals: true, tokens: true }));
  const values: Record<string, unknown> = {};
  for (const [name, spec] of Object.entries(specs)) {
    const value = parsed.values[name] as string | boolean | string[] | undefined;
    if (spec.oneOf !== undefined && value !== undefined && !spec.oneOf.includes(value as string))
      throw new BlockError("EINVAL", `--${name} must be used with ${spec.oneOf.join(" or ")} as argument.`);
    values[name] = value ?? (spec.value === undefined ? false : spec.many === true ? [] : undefined);
  }
  const given = parsed.tokens.flatMap((token) =>
    token.kind === "option" ? [{ name: token.name, value: token.value }] : [],
  );
  return { values: values as OptionValues<O>, operands: parsed.positionals, given };
}

/**
 * Long options may be shortened as far as they stay the only ones of their kind, as `getopt_long` has it.
 * @throws {UsageError} when several could be meant.
 */
function fullNames(names: readonly string[], argv: readonly string[]): string[] {
  const end = argv.indexOf("--");
  return argv.map((word, index) => {
    const match = /^--([^=]+)(=.*)?$/s.exec(word);
    if (match === null || (end >= 0 && index >= end)) return word;
    const [, given = "", value = ""] = match;
    const meant = names.includes(given) ? [given] : names.filter((name) => name.startsWith(given));
    if (meant.length > 1)
      throw new UsageError(
        `option '--${given}' is ambiguous; possibilities: ${meant.map((one) => `'--${one}'`).join(" ")}`,
      );
    return meant.length === 1 ? `--${meant[0]}${value}` : word;
  });
}

/** Puts an option and its value into one word: what stands behind it is its value, even when it begins with a dash. */
function withValues(specs: OptionSpecs, argv: readonly string[]): string[] {
  const takesValue = Object.entries(specs).flatMap(([name, { short, value }]) =>
    value === undefined ? [] : [`--${name}`, ...(short === undefined ? [] : [`-${short}`])],
  );
  const words: string[] = [];
  for (let at = 0; at < argv.length; at++) {
    const word = argv[at] as string;
    const value = argv[at + 1];
    if (word === "--") return [...words, ...argv.slice(at)];
    const isPair = takesValue.includes(word) && value?.startsWith("-") === true;
    words.push(isPair ? `${word}${word.startsWith("--") ? "=" : ""}${value}` : word);
    if (takesValue.includes(word)) {
      at += 1;
      if (!isPair && value !== undefined) words.push(value);
    }
  }
  return words;
}

function parserOption({ short, value, many }: OptionSpec) {
  return {
    type: value === undefined ? ("boolean" as const) : ("string" as const),
    multiple: many === true,
    ...(short === undefined ? {} : { short }),
  };
}

function understand<T>(parser: () => T): T {
  try {
    return parser();
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (!(error instanceof TypeError) || code?.startsWith("ERR_PARSE_ARGS") !== true) throw error;
    // Behind the first sentence stand hints for other programs.
    const sentence = message.split(/\.\s|\n/)[0] ?? message;
    throw new UsageError(sentence.replace(/^Unknown option/, "unrecognized option").replace(/^Option/, "option"));
  }
}

const HELP_COLUMN = 28;

function usageText(program: string, { operands, about, options }: CommandDescription<OptionSpecs>): string {
  const lines = Object.entries(options).map(([long, { short, value, help }]) => {
    const names = `${short === undefined ? "    " : `-${short}, `}--${long}${value === undefined ? "" : `=${value}`}`;
    const gap =
      names.length < HELP_COLUMN ? " ".repeat(HELP_COLUMN - names.length) : `\n${" ".repeat(HELP_COLUMN + 2)}`;
    return `  ${names}${gap}${help}`;
  });
  return [`Usage: ${program} [options] ${operands}`.trimEnd(), "", about, "", ...lines, ""].join("\n");
}
