/** The options of image formats as the command line gives them, and the line that tells what is being created. */
import { BlockError, parseSize } from "@spindle/base";
import { splitAtCommas } from "./key-value.ts";

/**
 * Reads option lists into one record; later values win. A key without a value is on, and one with "no" in front off.
 * @throws {BlockError} EINVAL for a list that begins or ends with a comma, or has nothing in it.
 */
export function parseOptionLists(lists: readonly string[]): Record<string, string> {
  checkOptionLists(lists);
  return Object.fromEntries(
    lists.flatMap(splitAtCommas).map((entry) => {
      const at = entry.indexOf("=");
      if (at >= 0) return [entry.slice(0, at), entry.slice(at + 1)];
      return entry.startsWith("no") ? [entry.slice(2), "off"] : [entry, "on"];
    }),
  );
}

/** Two commas are a comma of the value. */
function checkOptionLists(lists: readonly string[]): void {
  for (const list of lists) {
    const trailing = /,*$/.exec(list)?.[0].length ?? 0;
    if (list === "" || list.startsWith(",") || trailing % 2 !== 0)
      throw new BlockError("EINVAL", `Invalid option list: ${list}`);
  }
}

interface Created {
  readonly format: string;
  readonly options: Readonly<Record<string, string>>;
  readonly backing: { readonly filename?: string | undefined; readonly format?: string | undefined };
  readonly size: number | bigint;
}

const LUKS_LISTED = [
  ["key-secret"],
  ["cipher-alg"],
  ["cipher-mode"],
  ["ivgen-alg"],
  ["ivgen-hash-alg"],
  ["hash-alg"],
  ["iter-time"],
] as const;

/** What qemu-img lists for a format, in its order; options without a default only when they are given. */
const LISTED: Readonly<Record<string, readonly (readonly [key: string, byDefault?: string])[]>> = {
  qcow2: [
    ["encryption"],
    ["encrypt.format"],
    ...LUKS_LISTED.map(([key]) => [`encrypt.${key}`] as const),
    ["cluster_size", "65536"],
    ["extended_l2", "off"],
    ["preallocation"],
    ["compression_type", "zlib"],
    ["size"],
    ["compat"],
    ["backing_file"],
    ["backing_fmt"],
    ["data_file"],
    ["data_file_raw"],
    ["lazy_refcounts", "off"],
    ["refcount_bits", "16"],
    ["nocow"],
    ["extent_size_hint"],
  ],
  luks: [["size"], ...LUKS_LISTED, ["nocow"], ["preallocation"], ["extent_size_hint"]],
  raw: [["size"], ["nocow"], ["preallocation"], ["extent_size_hint"]],
};

/** The line that qemu-img prints when it creates an image. */
export function formattingLine(filename: string, { format, options, backing, size }: Created): string {
  const values: Record<string, string> = { ...options, size: String(size) };
  for (const key of ["cluster_size", "extent_size_hint"])
    if (options[key] !== undefined) values[key] = String(parseSize(options[key]));
  if (backing.filename !== undefined) values["backing_file"] = backing.filename.replaceAll(",", ",,");
  if (backing.format !== undefined) values["backing_fmt"] = backing.format;
  const listed = (LISTED[format] ?? []).flatMap(([key, byDefault]) => {
    const value = values[key] ?? byDefault;
    return value === undefined ? [] : [` ${key}=${value}`];
  });
  return `Formatting '${filename}', fmt=${format}${listed.join("")}`;
}

/** Whether a list of options asks what there is. @throws {BlockError} EINVAL when it is no list. */
export function asksForHelp(lists: readonly string[]): boolean {
  checkOptionLists(lists);
  return lists.flatMap(splitAtCommas).some((entry) => entry === "help" || entry === "?");
}
