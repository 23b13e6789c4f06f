/**
 * The value of `--blockdev`: JSON, or QEMU's `key=value,key=value`, in which dots lead into nested objects and numbers
 * into lists. There every value is a text; it becomes what the driver's option wants.
 */

import { parseSize } from "@spindle/base";
import { COMMON_OPTIONS, type DriverRegistry, fileOption, type OptionRecord, type OptionType } from "@spindle/block";
import { UsageError } from "./command.ts";
import { parsePairs } from "./key-value.ts";

/** @returns options as `blockdev-add` takes them. @throws {UsageError} when the text is neither. */
export function parseBlockdev(text: string, registry: DriverRegistry): OptionRecord {
  if (text.trimStart().startsWith("{")) return parseJson(text);
  return nodeOptions(parsePairs(text), registry);
}

/** Options from dotted keys and texts. @throws {UsageError} when a key contradicts another, or a value its type. */
export function nodeOptions(
  pairs: readonly (readonly [key: string, value: string])[],
  registry: DriverRegistry,
): OptionRecord {
  return typedNode(buildTree(pairs), registry);
}

/** The inverse, for options that were written as JSON, in which keys may be dotted too. */
export function flattenOptions(options: OptionRecord, parent = ""): (readonly [key: string, value: string])[] {
  return Object.entries(options).flatMap(([key, value]) => {
    const path = `${parent}${key}`;
    const isNested = typeof value === "object" && value !== null;
    return isNested ? flattenOptions(value as OptionRecord, `${path}.`) : [[path, value === null ? "" : String(value)]];
  });
}

function parseJson(text: string): OptionRecord {
  try {
    return JSON.parse(text) as OptionRecord;
  } catch (error) {
    throw new UsageError(`--blockdev: ${(error as Error).message}`);
  }
}

interface Tree {
  [key: string]: string | Tree;
}

/** The key of a value that a key has by itself, where others are below it: some options are a text or an object. */
const OWN_VALUE = "";

function buildTree(pairs: readonly (readonly [key: string, value: string])[]): Tree {
  const root = emptyTree();
  for (const [path, value] of pairs) {
    const keys = path.split(".");
    const last = keys.pop() as string;
    let tree = root;
    for (const key of keys) {
      const there = tree[key] ?? emptyTree();
      const inner = typeof there === "string" ? Object.assign(emptyTree(), { [OWN_VALUE]: there }) : there;
      tree[key] = inner;
      tree = inner;
    }
    if (last === OWN_VALUE) throw new UsageError(`--blockdev: '${path}' cannot have a value`);
    const there = tree[last];
    if (typeof there === "object") there[OWN_VALUE] = value;
    else tree[last] = value;
  }
  return root;
}

/** Without a prototype, so that no key means anything special. */
function emptyTree(): Tree {
  return Object.create(null) as Tree;
}

/** One node's options; its driver says of which types they are. What it does not know is left for it to refuse. */
function typedNode(tree: Tree, registry: DriverRegistry): OptionRecord {
  const { driver } = tree;
  const definition = typeof driver === "string" && registry.has(driver) ? registry.get(driver) : undefined;
  const own = definition === undefined ? formatOptions(registry) : definition.options;
  const known: Readonly<Record<string, OptionType>> = { ...own, ...COMMON_OPTIONS };
  const nodes = [fileOption(definition ?? {}), "backing", "data-file"];
  const entries = Object.entries(tree).map(([key, value]): [string, unknown] => {
    if (nodes.includes(key) && typeof value === "object") {
      if (OWN_VALUE in value) throw hasOwnValue(key);
      return [key, typedNode(value, registry)];
    }
    if (key === "backing" && value === "") return [key, null];
    return [key, typedValue(key, value, Object.hasOwn(known, key) ? known[key] : undefined)];
  });
  return Object.fromEntries(entries);
}

/** The options of all formats, for a node whose format will be found by looking. */
function formatOptions(registry: DriverRegistry): Readonly<Record<string, OptionType>> {
  const formats = registry.names().map((name) => registry.get(name));
  return Object.assign({}, ...formats.filter(({ kind }) => kind === "format").map(({ options }) => options));
}

const SWITCHES: Readonly<Record<string, boolean>> = {
  on: true,
  yes: true,
  true: true,
  off: false,
  no: false,
  false: false,
};

function typedValue(key: string, value: string | Tree, type: OptionType | undefined): unknown {
  if (typeof value === "object") return guessed(key, value, type === "string or object");
  switch (type) {
    case "boolean":
      if (!Object.hasOwn(SWITCHES, value)) throw new UsageError(`Parameter '${key}' expects 'on' or 'off'`);
      return SWITCHES[value];
    case "number":
      return sizeValue(key, value);
    default:
      return value;
  }
}

function sizeValue(key: string, text: string): number {
  // Whose option it is says whether it may be negative.
  if (/^-\d+$/.test(text)) return Number(text);
  try {
    return parseSize(text);
  } catch {
    throw new UsageError(`Parameter '${key}' expects a number`);
  }
}

/** Values whose types no driver tells: lists where all keys are numbers, and numbers and switches where they look so. */
function guessed(path: string, value: string | Tree, mayHaveOwn = false): unknown {
  if (typeof value === "string") {
    if (/^\d+$/.test(value)) return Number(value);
    return Object.hasOwn(SWITCHES, value) ? SWITCHES[value] : value;
  }
  if (OWN_VALUE in value && !mayHaveOwn) throw hasOwnValue(path);
  const entries = Object.entries(value).map(([key, item]) => [key, guessed(`${path}.${key}`, item)] as const);
  return entries.every(([key], index) => key === String(index))
    ? entries.map(([, item]) => item)
    : Object.fromEntries(entries);
}

function hasOwnValue(path: string): UsageError {
  return new UsageError(`--blockdev: '${path}' has a value, and others are below it`);
}
