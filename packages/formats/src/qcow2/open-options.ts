/**
 * What a user may say of a qcow2 image when it is opened: sizes of caches, lazy refcounts, and which metadata is looked after.
 * What is said of its encryption is read where that is opened.
 */
import { BlockError, isPowerOfTwo } from "@spindle/base";
import type { OptionType } from "@spindle/block";
import type { Qcow2Header } from "./header.ts";

/** The kinds of metadata that overlap checks tell apart. */
const CLASSES = [
  "main-header",
  "active-l1",
  "active-l2",
  "refcount-table",
  "refcount-block",
  "snapshot-table",
  "inactive-l1",
  "inactive-l2",
  "bitmap-directory",
] as const;
export type MetadataClass = (typeof CLASSES)[number];

/** Whether clusters of this kind are kept from being overwritten. */
export type OverlapChecks = (kind: MetadataClass) => boolean;

export const ALL_CHECKS: OverlapChecks = () => true;

const CONSTANT: readonly MetadataClass[] = [
  "main-header",
  "active-l1",
  "refcount-table",
  "snapshot-table",
  "bitmap-directory",
];
const TEMPLATES: Readonly<Record<string, readonly MetadataClass[]>> = {
  none: [],
  constant: CONSTANT,
  cached: [...CONSTANT, "active-l2", "refcount-block", "inactive-l1"],
  all: CLASSES,
};

export const QCOW2_OPEN_OPTIONS: Readonly<Record<string, OptionType>> = {
  "lazy-refcounts": "boolean",
  "pass-discard-request": "boolean",
  "pass-discard-snapshot": "boolean",
  "pass-discard-other": "boolean",
  "overlap-check": "string or object",
  "cache-size": "number",
  "l2-cache-size": "number",
  "l2-cache-entry-size": "number",
  "refcount-cache-size": "number",
  "cache-clean-interval": "number",
  encrypt: "object",
};

export interface Qcow2OpenOptions {
  /** What the image says counts when absent. */
  readonly lazyRefcounts: boolean | undefined;
  /** Bytes for tables that are not changed; the usual when absent. */
  readonly l2CacheBytes: number | undefined;
  readonly refcountCacheBytes: number | undefined;
  readonly checks: OverlapChecks;
}

type Given = Readonly<Record<string, unknown>>;

const TABLES_MAX = 2 ** 31 - 1;
const INTERVAL_MAX = 2 ** 32 - 1;
/** Refcount blocks that are kept where one size is told for everything. */
const REFCOUNT_BLOCKS_LEAST = 4;

/** @throws {BlockError} EINVAL with QEMU's text. */
export function qcow2OpenOptions(options: Given, header: Qcow2Header): Qcow2OpenOptions {
  const lazyRefcounts = options["lazy-refcounts"] as boolean | undefined;
  if (lazyRefcounts === true && header.version < 3)
    throw invalid("Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level");
  const interval = (options["cache-clean-interval"] ?? 0) as number;
  if (interval < 0 || interval > INTERVAL_MAX) throw invalid("Cache clean interval too big");
  return { lazyRefcounts, ...cacheSizes(options, header), checks: overlapChecks(options) };
}

function cacheSizes(
  options: Given,
  { clusterBits, size: diskSize }: Qcow2Header,
): Pick<Qcow2OpenOptions, "l2CacheBytes" | "refcountCacheBytes"> {
  const clusterSize = 2 ** clusterBits;
  const size = (key: string): number | undefined => {
    const value = options[key] as number | undefined;
    if (value !== undefined && value < 0) throw invalid(`Parameter '${key}' expects a non-negative number below 2^64`);
    return value;
  };
  const both = size("cache-size");
  let l2 = size("l2-cache-size");
  let refcounts = size("refcount-cache-size");
  if (both !== undefined) {
    if (l2 !== undefined && refcounts !== undefined)
      throw invalid("cache-size, l2-cache-size and refcount-cache-size may not be set at the same time");
    if (l2 !== undefined && l2 > both) throw invalid("l2-cache-size may not exceed cache-size");
    if (refcounts !== undefined && refcounts > both) throw invalid("refcount-cache-size may not exceed cache-size");
    const least = Math.min(both, REFCOUNT_BLOCKS_LEAST * clusterSize);
    const allTables = Math.ceil((diskSize * 8) / clusterSize / clusterSize) * clusterSize;
    l2 ??= refcounts === undefined ? Math.min(both - least, allTables) : both - refcounts;
    refcounts ??= both - l2;
  }
  const entry = size("l2-cache-entry-size") ?? clusterSize;
  if (entry < 512 || entry > clusterSize || !isPowerOfTwo(entry))
    throw invalid(`L2 cache entry size must be a power of two between 512 and the cluster size (${clusterSize})`);
  if ((l2 ?? 0) / entry > TABLES_MAX) throw invalid("L2 cache size too big");
  if ((refcounts ?? 0) / clusterSize > TABLES_MAX) throw invalid("Refcount cache size too big");
  return { l2CacheBytes: l2, refcountCacheBytes: refcounts };
}

/** Without a word of it, everything is looked after. */
function overlapChecks(options: Given): OverlapChecks {
  const given = options["overlap-check"];
  if (given === undefined) return ALL_CHECKS;
  // As dotted keys it can be both a text and an object: the text is the value of the empty key then.
  const { "": text, ...object } = typeof given === "string" ? { "": given } : (given as Given);
  const { template, ...classes } = object;
  if (text !== undefined && template !== undefined && text !== template)
    throw invalid(
      `Conflicting values for qcow2 options 'overlap-check' ('${text}') and 'overlap-check.template' ('${template}')`,
    );
  const name = String(text ?? template ?? "all");
  if (!Object.hasOwn(TEMPLATES, name))
    throw invalid(
      `Unsupported value '${name}' for qcow2 option 'overlap-check'. ` +
        `Allowed are any of the following: ${Object.keys(TEMPLATES).join(", ")}`,
    );
  const checked = new Set<string>(TEMPLATES[name]);
  for (const [kind, state] of Object.entries(classes)) {
    const key = `overlap-check.${kind}`;
    if (!(CLASSES as readonly string[]).includes(kind))
      throw invalid(`Block format 'qcow2' does not support the option '${key}'`);
    if (typeof state !== "boolean") throw invalid(`Parameter '${key}' expects 'on' or 'off'`);
    if (state) checked.add(kind);
    else checked.delete(kind);
  }
  return (kind) => checked.has(kind);
}

function invalid(message: string): BlockError {
  return new BlockError("EINVAL", message);
}
