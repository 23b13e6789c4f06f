/**
 * One command as the table of commands lists it: its arguments, which are checked before it runs, and what it does. A
 * command knows neither JSON nor sessions.
 */
import { BlockError, type Clock, type Co } from "@spindle/base";
import type { Graph } from "@spindle/block";
import type { CreateCopier, JobRegistry } from "@spindle/jobs";
import { dictionaryOrder } from "./dictionary-order.ts";
import type { JsonObject, JsonValue } from "./json-value.ts";
import { isJsonObject } from "./json-value.ts";
import type { MachineControl } from "./machine.ts";
import { parameterMissing, parameterType, parameterUnexpected, parameterValue } from "./qmp-error.ts";

/** The version as `query-version` tells it. */
export interface Version {
  readonly major: number;
  readonly minor: number;
  readonly micro: number;
  /** Whatever the distributor wants to add; may be empty. */
  readonly package: string;
}

/** What commands work with. */
export interface CommandContext {
  readonly graph: Graph;
  readonly jobs: JobRegistry;
  readonly createCopier: CreateCopier;
  readonly clock: Clock;
  readonly version: Version;
  /** The machine that is served; undefined where the program serves none. */
  readonly machine: MachineControl | undefined;
  /** The names of all commands. */
  readonly commandNames: readonly string[];
  /**
   * Checks the arguments of a command and runs it.
   * @throws {BlockError} with QEMU's text.
   */
  execute(name: string, argumentValues: JsonObject): Co<unknown>;
  /** Ends all jobs; the program ends when the reply has been sent. */
  quit(): Co<void>;
}

/** A type of the schema, with `?` behind it when the argument may be left out; or the words that it may be. */
export type ArgumentType =
  | "string"
  | "string?"
  | "integer"
  | "integer?"
  | "uint32?"
  | "boolean"
  | "boolean?"
  | "array"
  | { readonly oneOf: readonly string[] };

type ValueOf<T> = T extends { readonly oneOf: readonly (infer W)[] }
  ? W | undefined
  : T extends "string"
    ? string
    : T extends "string?"
      ? string | undefined
      : T extends "integer"
        ? number
        : T extends "integer?" | "uint32?"
          ? number | undefined
          : T extends "array"
            ? readonly JsonValue[]
            : T extends "boolean"
              ? boolean
              : boolean | undefined;

/** The checked values of a command's arguments. */
export type ArgumentValues<A> = { readonly [K in keyof A]: ValueOf<A[K]> };

export interface Command {
  readonly name: string;
  /** In the order of QEMU's schema, which decides what is found wrong first. */
  readonly arguments: Readonly<Record<string, ArgumentType>>;
  /** Whether other members may be there, which the command itself looks at. */
  readonly open: boolean;
  /** Whether it is there only where the program serves a machine. */
  readonly forMachine: boolean;
  /** Whether it changes the graph: such commands run one after the other, whichever session they came from. */
  readonly changesGraph: boolean;
  run(context: CommandContext, values: Readonly<Record<string, unknown>>, all: JsonObject): Co<unknown>;
}

/** Describes a command. What `run` returns is the reply; an empty object when it returns nothing. */
export function command<const A extends Readonly<Record<string, ArgumentType>>>(
  name: string,
  argumentTypes: A,
  run: (context: CommandContext, values: ArgumentValues<A>, all: JsonObject) => Co<unknown>,
  options: { readonly open?: boolean; readonly changesGraph?: boolean; readonly forMachine?: boolean } = {},
): Command {
  const { open = false, changesGraph = false, forMachine = false } = options;
  return { name, arguments: argumentTypes, open, changesGraph, forMachine, run: run as Command["run"] };
}

/**
 * The values of a command's arguments.
 * @throws {BlockError} EINVAL with QEMU's text when one is missing, of the wrong type, or unknown.
 */
export function checkArguments(definition: Command, given: JsonObject): Readonly<Record<string, unknown>> {
  const values: Record<string, unknown> = {};
  for (const [name, type] of Object.entries(definition.arguments)) {
    const value = given[name];
    if (value !== undefined) values[name] = checkValue(name, type, value);
    else if (typeof type === "string" && !type.endsWith("?")) throw parameterMissing(name);
  }
  if (!definition.open) {
    const unknown = dictionaryOrder(Object.keys(given)).find((name) => !Object.hasOwn(definition.arguments, name));
    if (unknown !== undefined) throw parameterUnexpected(unknown);
  }
  return values;
}

function checkValue(name: string, type: ArgumentType, value: JsonValue): unknown {
  if (typeof type === "object") {
    if (typeof value !== "string") throw parameterType(name, "string");
    if (!type.oneOf.includes(value)) throw parameterValue(name, value);
    return value;
  }
  if (type === "array") {
    if (!Array.isArray(value)) throw parameterType(name, "array");
    return value;
  }
  const wanted = type.replace("?", "");
  if (wanted === "uint32") return checkUnsigned(name, value);
  if (wanted === "integer") return checkInteger(name, value);
  if (typeof value !== wanted) throw parameterType(name, wanted);
  refuseNul(name, value);
  return value;
}

/** The schema's integers have 64 bits; those that a number does not hold exactly are refused. */
function checkInteger(name: string, value: JsonValue): number {
  if (Number.isSafeInteger(value)) return value as number;
  if (typeof value !== "bigint" || value >= 2n ** 63n) throw parameterType(name, "integer");
  throw new BlockError("EINVAL", `Parameter '${name}' expects a value from -(2^53 - 1) to 2^53 - 1`);
}

/** QEMU's words tell of the type that it reads, and of the one that it keeps. */
function checkUnsigned(name: string, value: JsonValue): number {
  if (!Number.isSafeInteger(value)) throw new BlockError("EINVAL", `Parameter '${name}' expects uint64`);
  if ((value as number) >= 0 && (value as number) < 2 ** 32) return value as number;
  throw new BlockError("EINVAL", `Parameter '${name}' expects uint32_t`);
}

/** @throws {BlockError} EINVAL when a string inside of a value holds a NUL: hosts end names there. */
export function refuseNul(name: string, value: JsonValue): void {
  if (typeof value === "string") {
    if (value.includes("\0")) throw new BlockError("EINVAL", `Parameter '${name}' contains a NUL character`);
  } else if (Array.isArray(value)) for (const item of value) refuseNul(name, item);
  else if (isJsonObject(value)) for (const [key, member] of Object.entries(value)) refuseNul(`${name}.${key}`, member);
}
