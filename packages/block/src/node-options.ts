/** Checks the options of one node, as `blockdev-add` takes them, and sorts the common ones from the driver's own. */
import { BlockError } from "@spindle/base";
import type { CacheOptions, DriverDefinition, OptionType } from "./registry.ts";

export type OptionRecord = Readonly<Record<string, unknown>>;

export interface NodeOptionValues {
  readonly nodeName: string | undefined;
  readonly readOnly: boolean | undefined;
  /** Other programs may do what they like with the image meanwhile. */
  readonly forceShare: boolean | undefined;
  /** A node's name or the options of a node to open. */
  readonly file: string | OptionRecord | undefined;
  /** The same; null for explicitly none, undefined for what the image says. */
  readonly backing: string | OptionRecord | null | undefined;
  /** The same for the file of an image's data; null to look at the image without it. */
  readonly data: string | OptionRecord | null | undefined;
  readonly cache: CacheOptions;
  readonly own: OptionRecord;
}

/** Options that every node takes. */
export const COMMON_OPTIONS: Readonly<Record<string, OptionType>> = {
  driver: "string",
  "node-name": "string",
  "read-only": "boolean",
  "force-share": "boolean",
  cache: "object",
};

/** Names that QEMU accepts as node names. */
const WELL_FORMED_NAME = /^[a-zA-Z][a-zA-Z0-9._-]{0,30}$/;

/** @throws {BlockError} EINVAL with QEMU's text when an option is unknown or of the wrong type. */
export function checkOptions(definition: DriverDefinition, options: OptionRecord): NodeOptionValues {
  const own: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(options)) {
    if (isCommonOption(key, definition)) continue;
    const type = Object.hasOwn(definition.options, key) ? definition.options[key] : undefined;
    if (type === undefined) throw new BlockError("EINVAL", `Parameter '${key}' is unexpected`);
    expectType(key, value, type);
    own[key] = value;
  }
  const nodeName = optional(options, "node-name", "string") as string | undefined;
  if (nodeName !== undefined && !WELL_FORMED_NAME.test(nodeName))
    throw new BlockError("EINVAL", `Invalid node-name: '${nodeName}'`);
  return {
    nodeName,
    readOnly: optional(options, "read-only", "boolean") as boolean | undefined,
    forceShare: optional(options, "force-share", "boolean") as boolean | undefined,
    file: child(options, fileOption(definition)) as string | OptionRecord | undefined,
    backing: options["backing"] === null ? null : child(options, "backing"),
    data: options["data-file"] === null ? null : child(options, "data-file"),
    cache: cacheOptions(options),
    own,
  };
}

/** The option `cache` of a node. @throws {BlockError} EINVAL when it is not of the right form. */
export function cacheOptions(options: OptionRecord): CacheOptions {
  const cache = (optional(options, "cache", "object") ?? {}) as OptionRecord;
  for (const [key, value] of Object.entries(cache)) {
    if (key !== "no-flush" && key !== "direct")
      throw new BlockError("EINVAL", `Parameter 'cache.${key}' is unexpected`);
    if (typeof value !== "boolean")
      throw new BlockError("EINVAL", `Invalid parameter type for 'cache.${key}', expected: boolean`);
  }
  return { direct: cache["direct"] as boolean | undefined, noFlush: cache["no-flush"] as boolean | undefined };
}

function isCommonOption(key: string, definition: DriverDefinition): boolean {
  if (Object.hasOwn(COMMON_OPTIONS, key)) return true;
  if (key === fileOption(definition)) return definition.kind !== "protocol";
  if (key === "data-file") return definition.dataFile !== undefined;
  return key === "backing" && definition.supportsBacking === true;
}

/** The option that names the node below. */
export function fileOption({ fileOption = "file" }: Pick<DriverDefinition, "fileOption">): string {
  return fileOption;
}

function optional(options: OptionRecord, key: string, type: OptionType): unknown {
  const value = options[key];
  if (value !== undefined) expectType(key, value, type);
  return value;
}

function child(options: OptionRecord, key: string): string | OptionRecord | undefined {
  const value = options[key];
  if (value === undefined || typeof value === "string") return value;
  expectType(key, value, "object");
  return value as OptionRecord;
}

const QAPI_TYPE_NAMES: Readonly<Record<OptionType, string>> = {
  string: "string",
  number: "integer",
  boolean: "boolean",
  object: "object",
  "string or object": "object",
};

function expectType(key: string, value: unknown, type: OptionType): void {
  const isOne = type.split(" or ").includes(typeof value) && value !== null;
  const matches = type === "number" ? Number.isSafeInteger(value) : isOne;
  if (!matches)
    throw new BlockError("EINVAL", `Invalid parameter type for '${key}', expected: ${QAPI_TYPE_NAMES[type]}`);
}
