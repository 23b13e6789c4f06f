/** The options of image formats as the command line gives them, and the line that tells what is being created. */
import { parseSize } from "@spindle/base";
import { UsageError } from "./command.ts";
import { EXIT_OK } from "./exit-codes.ts";
import { parsePairs } from "./key-value.ts";
import { print } from "./output.ts";

/** Reads option lists into one record; later values win. @throws {UsageError} when an entry has no key or no value. */
export function parseOptionLists(lists: readonly string[]): Record<string, string> {
  return Object.fromEntries(lists.flatMap(parsePairs));
}

interface Created {
  readonly format: string;
  readonly options: Readonly<Record<string, string>>;
  readonly backing: { readonly filename: string; readonly format: string } | undefined;
  readonly size: number | bigint;
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

/** What qemu-img says of the options that the formats have here, in its order. */
const HELP: Readonly<Record<string, readonly (readonly [option: string, about: string])[]>> = {
  qcow2: [
    ["backing_file=<str>", "File name of a base image"],
    ["backing_fmt=<str>", "Image format of the base image"],
    ["cluster_size=<size>", "qcow2 cluster size"],
    ["compat=<str>", "Compatibility level (v2 [0.10] or v3 [1.1])"],
    ["compression_type=<str>", "Compression method used for image cluster compression"],
    ["preallocation=<str>", "Preallocation mode (allowed values: off, metadata, falloc, full)"],
    ["refcount_bits=<num>", "Width of a reference count entry in bits"],
    ["size=<size>", "Virtual disk size"],
  ],
  raw: [
    ["preallocation=<str>", "Preallocation mode (allowed values: off, falloc, full)"],
    ["size=<size>", "Virtual disk size"],
  ],
};
const HELP_COLUMN = 22;

/** Whether a list of options asks what there is. */
export function asksForHelp(lists: readonly string[]): boolean {
  return lists.some((list) => list.split(",").some((entry) => entry === "help" || entry === "?"));
}

/** Prints them. @returns the exit code. @throws {UsageError} when there is no such format. */
export async function printOptionHelp(format = "raw"): Promise<number> {
  const options = Object.hasOwn(HELP, format) ? HELP[format] : undefined;
  if (options === undefined) throw new UsageError(`Unknown file format '${format}'`);
  const lines = options.map(([option, about]) => `  ${option.padEnd(HELP_COLUMN)} - ${about}`);
  print(`Supported ${format} options:\n${lines.join("\n")}\n`);
  return EXIT_OK;
}
