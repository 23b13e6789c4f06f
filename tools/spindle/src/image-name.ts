/**
 * The names of images as QEMU's programs take them: a path, `file:PATH`, `json:{...}`, or the options of `--image-opts`. A
 * format that nobody tells is found out by looking at the first bytes.
 */
import { BlockError, type Co } from "@spindle/base";
import type { BlockNode, Graph, OptionRecord } from "@spindle/block";
import { flattenOptions, nodeOptions } from "./blockdev-option.ts";
import { parsePairs } from "./key-value.ts";

/** A protocol before a colon; a path may have a colon behind a slash. */
const PROTOCOL = /^([^:/]+):(.*)$/s;

export interface ImageName {
  /** A path, or what stands behind a protocol; absent when the options tell it. */
  readonly filename?: string | undefined;
  /** Dotted keys and texts, in order; later ones win. */
  readonly pairs: readonly (readonly [key: string, value: string])[];
}

/** Reads the value of `--image-opts`: options, of which the first may be a node's name without a key. */
export function imageOptions(text: string): ImageName {
  const [first = ""] = text.split(",");
  return { pairs: parsePairs(first.includes("=") ? text : `file=${text}`) };
}

/** Reads a file name; `json:` leads options in. @throws {BlockError} EINVAL for an unknown protocol or bad JSON. */
export function imageFilename(name: string, pairs: ImageName["pairs"] = []): ImageName {
  if (name.startsWith("json:")) return { pairs: [...flattenOptions(parseJson(name.slice("json:".length))), ...pairs] };
  const [, protocol, rest] = PROTOCOL.exec(name) ?? [];
  if (protocol === undefined) return { filename: name, pairs };
  if (protocol !== "file") throw new BlockError("ENOENT", `Unknown protocol '${protocol}'`);
  return { filename: rest, pairs };
}

function parseJson(text: string): Readonly<Record<string, unknown>> {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return { ...value };
  } catch {
    // Told below, like any other text that is no object.
  }
  throw new BlockError("EINVAL", "Could not parse the JSON options");
}

/** Opens an image and the chain below it. @throws {BlockError} with QEMU's text where it has one. */
export function* openByName(graph: Graph, { filename, pairs }: ImageName, readOnly: boolean): Co<BlockNode> {
  if (filename !== undefined && pairs.length === 0) return yield* graph.openImage(filename, undefined, readOnly);
  if (filename === undefined && !pairs.some(([key]) => /^(driver|file)\b/.test(key)))
    throw new BlockError("EINVAL", "Must specify either driver or file");
  const named = filename === undefined ? pairs : [...pairs, ["file.filename", filename] as const];
  const driver = pairs.findLast(([key]) => key === "driver")?.[1];
  // Says that it is unknown.
  if (driver !== undefined) graph.registry.get(driver);
  const options = withReadOnly(nodeOptions(withFileDriver(named), graph.registry), readOnly);
  return yield* driver === undefined ? graph.openProbed(options) : graph.open(options);
}

/** A file of the host is what a file name means where no driver is told. */
function withFileDriver(pairs: ImageName["pairs"]): ImageName["pairs"] {
  const keys = pairs.map(([key]) => key);
  const parents = keys.filter((key) => /(^|\.)file\.filename$/.test(key)).map((key) => key.replace(/filename$/, ""));
  const missing = parents.filter((parent) => !keys.includes(`${parent}driver`));
  return [...pairs, ...missing.map((parent): [string, string] => [`${parent}driver`, "file"])];
}

function withReadOnly(options: OptionRecord, readOnly: boolean): OptionRecord {
  return readOnly ? { ...options, "read-only": true } : options;
}
