/** The options of image formats as the command line gives them, and the line that tells what is being created. */
import { parseSize } from "@spindle/base";
import { parsePairs } from "./key-value.ts";

/** Reads option lists into one record; later values win. @throws {UsageError} when an entry has no key or no value. */
export function parseOptionLists(lists: readonly string[]): Record<string, string> {
  return Object.fromEntries(lists.flatMap(parsePairs));
}

interface Created {
  readonly format: string;
  readonly options: Readonly<Record<string, string>>;
  readonly backing: { readonly filename: string; readonly format: string } | undefined;
  readonly size: number;
}

/** What qemu-img lists for a format, in its order; options without a default only when they are given. */
const LISTED: Readonly<Record<string, readonly (readonly [key: string, byDefault?: string])[]>> = {
  qcow2: [
    ["encryption"],
    ["cluster_size", "65536"],
    ["extended_l2", "off"],
    ["preallocation"],
    ["compression_type", "zlib"],
    ["size"],
    ["compat"],
    ["backing_file"],
    ["backing_fmt"],
    ["lazy_refcounts", "off"],
    ["refcount_bits", "16"],
    ["nocow"],
    ["extent_size_hint"],
  ],
  raw: [["size"], ["nocow"], ["preallocation"], ["extent_size_hint"]],
};

/** The line that qemu-img prints when it creates an image. */
export function formattingLine(filename: string, { format, options, backing, size }: Created): string {
  const values: Record<string, string> = { ...options, size: String(size) };
  for (const key of ["cluster_size", "extent_size_hint"])
    if (options[key] !== undefined) values[key] = String(parseSize(options[key]));
  if (backing !== undefined) {
    values["backing_file"] = backing.filename.replaceAll(",", ",,");
    values["backing_fmt"] = backing.format;
  }
  const listed = (LISTED[format] ?? []).flatMap(([key, byDefault]) => {
    const value = values[key] ?? byDefault;
    return value === undefined ? [] : [` ${key}=${value}`];
  });
  return `Formatting '${filename}', fmt=${format}${listed.join("")}`;
}
