/**
 * The names of images as QEMU's programs take them: a path, `file:PATH`, `json:{...}`, or the options of `--image-opts`. A
 * format that nobody tells is found out by looking at the first bytes.
 */
import { BlockError, type Co, encodeUtf8 } from "@spindle/base";
import type { BlockNode, DriverRegistry, Graph, OpenImageOptions, OptionRecord } from "@spindle/block";
import { JsonReader } from "@spindle/monitor";
import { driverRegistry, type ImageName as LibraryImageName } from "spindle";
import { flattenOptions, nodeOptions } from "./blockdev-option.ts";
import { type CacheMode, isDirect } from "./cache-mode.ts";
import { UsageError } from "./command.ts";
import { parsePairs } from "./key-value.ts";
import { namesFilter, type OptionPairs, placeFilename } from "./place-filename.ts";

/** A protocol before a colon; a path may have a colon behind a slash. */
const PROTOCOL = /^([^:/]+):(.*)$/s;

export interface ImageName {
  /** A path, or what stands behind a protocol; absent when the options tell it. */
  readonly filename?: string | undefined;
  /** Dotted keys and texts, in order; later ones win. */
  readonly pairs: OptionPairs;
}

/** Reads the value of `--image-opts`: options, of which the first may be a node's name without a key. */
export function imageOptions(text: string): ImageName {
  const [first = ""] = text.split(",");
  return { pairs: parsePairs(first.includes("=") ? text : `file=${text}`) };
}

/** Reads a file name; `json:` leads options in. @throws {BlockError} EINVAL for an unknown protocol or bad JSON. */
export function imageFilename(name: string, pairs: ImageName["pairs"] = []): ImageName {
  if (name.startsWith("json:")) return { pairs: [...jsonPairs(name), ...pairs] };
  if (namesFilter(name)) return { pairs: placeFilename(name, pairs, jsonPairs) };
  const [, protocol, rest] = PROTOCOL.exec(name) ?? [];
  if (protocol === undefined) return { filename: name, pairs };
  if (protocol !== "file") throw new BlockError("ENOENT", `Unknown protocol '${protocol}'`);
  return { filename: rest, pairs };
}

function jsonPairs(name: string): OptionPairs {
  return flattenOptions(parseJson(name.slice("json:".length)));
}

function parseJson(text: string): Readonly<Record<string, unknown>> {
  const reader = new JsonReader();
  reader.push(encodeUtf8(text));
  const message = reader.next() ?? { error: "JSON parse error, premature EOI" };
  if ("error" in message) throw new BlockError("EINVAL", `Could not parse the JSON options: ${message.error}`);
  const { value } = message;
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value;
  throw new BlockError("EINVAL", "Invalid JSON object given");
}

export type ImageAccess = Pick<OpenImageOptions, "readOnly" | "forceShare" | "direct">;

/** Opens an image and the chain below it. @throws {BlockError} with QEMU's text where it has one. */
export function* openByName(graph: Graph, { filename, pairs }: ImageName, access: ImageAccess): Co<BlockNode> {
  if (filename !== undefined && pairs.length === 0) return yield* graph.openImage(filename, access);
  const options = withAccess(imageNodeOptions({ filename, pairs }, graph.registry), access);
  return yield* options["driver"] === undefined ? graph.openProbed(options) : graph.open(options);
}

/** The options of the node; without `driver` when none was told. @throws {BlockError} EINVAL when they are none. */
function imageNodeOptions({ filename, pairs }: ImageName, registry: DriverRegistry): OptionRecord {
  if (filename === undefined && !pairs.some(([key]) => /^(driver|file)\b/.test(key)))
    throw new BlockError("EINVAL", "Must specify either driver or file");
  const named = filename === undefined ? pairs : placeFilename(filename, pairs, jsonPairs);
  const driver = pairs.findLast(([key]) => key === "driver")?.[1];
  // Says that it is unknown.
  if (driver !== undefined) registry.get(driver);
  return nodeOptions(withFileDriver(named), registry);
}

export interface OperandOptions {
  readonly format?: string | undefined;
  /** The operand is a list of options. */
  readonly imageOpts?: boolean | undefined;
  readonly cache?: CacheMode | undefined;
}

/** An operand as the library takes it. @throws {BlockError} when it names no image. */
export function operandImage(
  text: string,
  { format, imageOpts = false, cache }: OperandOptions = {},
): LibraryImageName {
  const direct = isDirect(cache);
  if (imageOpts && format !== undefined) throw new UsageError("--image-opts and --format are mutually exclusive");
  const name = imageOpts ? imageOptions(text) : imageFilename(text);
  if (name.filename !== undefined) return { filename: name.filename, format, direct };
  const options = imageNodeOptions(name, driverRegistry());
  const told = options["driver"] === undefined && format !== undefined ? { driver: format } : {};
  return { filename: plainFilename(options) ?? text, options: { ...told, ...options }, direct };
}

/** What is told, for functions that want nothing else. */
export function given({ format, options, direct = false }: Omit<LibraryImageName, "filename">): {
  format?: string;
  options?: OptionRecord;
  direct: boolean;
} {
  return { direct, ...(format === undefined ? {} : { format }), ...(options === undefined ? {} : { options }) };
}

/** The file name that says all that the options say; undefined when they say more. */
function plainFilename(options: OptionRecord): string | undefined {
  const { driver: _driver, file, ...rest } = options;
  if (Object.keys(rest).length > 0 || typeof file !== "object" || file === null) return undefined;
  const { driver, filename, ...more } = file as OptionRecord;
  const isPlain = driver === "file" && typeof filename === "string" && Object.keys(more).length === 0;
  return isPlain ? filename : undefined;
}

/** A file of the host is what a file name means where no driver is told. */
function withFileDriver(pairs: ImageName["pairs"]): ImageName["pairs"] {
  const keys = pairs.map(([key]) => key);
  const parents = keys
    .filter((key) => /(^|\.)(file|image|data-file)\.filename$/.test(key))
    .map((key) => key.replace(/filename$/, ""));
  const missing = parents.filter((parent) => !keys.includes(`${parent}driver`));
  return [...pairs, ...missing.map((parent): [string, string] => [`${parent}driver`, "file"])];
}

function withAccess(options: OptionRecord, { readOnly, forceShare, direct }: ImageAccess): OptionRecord {
  return {
    ...options,
    ...(readOnly ? { "read-only": true } : {}),
    ...(forceShare ? { "force-share": true } : {}),
    ...(direct ? { cache: { direct, ...(options["cache"] as OptionRecord | undefined) } } : {}),
  };
}
