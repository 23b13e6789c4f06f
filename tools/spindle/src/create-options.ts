/** The options of image formats as the command line gives them, and the line that tells what is being created. */
import { BlockError, parseSize } from "@spindle/base";
import { UsageError } from "./command.ts";
import { EXIT_OK } from "./exit-codes.ts";
import { splitAtCommas } from "./key-value.ts";
import { print } from "./output.ts";

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
  readonly backing: { readonly filename: string; readonly format: string } | undefined;
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
    ["encrypt.cipher-alg=<str>", "Name of encryption cipher algorithm"],
    ["encrypt.cipher-mode=<str>", "Name of encryption cipher mode"],
    ["encrypt.format=<str>", "Encrypt the image, format choices: 'aes', 'luks'"],
    ["encrypt.hash-alg=<str>", "Name of encryption hash algorithm"],
    ["encrypt.iter-time=<num>", "Time to spend in PBKDF in milliseconds"],
    ["encrypt.ivgen-alg=<str>", "Name of IV generator algorithm"],
    ["encrypt.ivgen-hash-alg=<str>", "Name of IV generator hash algorithm"],
    ["encrypt.key-secret=<str>", "ID of secret providing qcow AES key or LUKS passphrase"],
    ["encryption=<bool (on/off)>", "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)"],
    ["extended_l2=<bool (on/off)>", "Extended L2 tables"],
    ["preallocation=<str>", "Preallocation mode (allowed values: off, metadata, falloc, full)"],
    ["refcount_bits=<num>", "Width of a reference count entry in bits"],
    ["size=<size>", "Virtual disk size"],
  ],
  luks: [
    ["cipher-alg=<str>", "Name of encryption cipher algorithm"],
    ["cipher-mode=<str>", "Name of encryption cipher mode"],
    ["hash-alg=<str>", "Name of encryption hash algorithm"],
    ["iter-time=<num>", "Time to spend in PBKDF in milliseconds"],
    ["ivgen-alg=<str>", "Name of IV generator algorithm"],
    ["ivgen-hash-alg=<str>", "Name of IV generator hash algorithm"],
    ["key-secret=<str>", "ID of the secret that provides the keyslot passphrase"],
    ["size=<size>", "Virtual disk size"],
  ],
  raw: [
    ["preallocation=<str>", "Preallocation mode (allowed values: off, falloc, full)"],
    ["size=<size>", "Virtual disk size"],
  ],
};
const AMEND_HELP: readonly (readonly [option: string, about: string])[] = [
  ["backing_file=<str>", "File name of a base image"],
  ["backing_fmt=<str>", "Image format of the base image"],
  ["compat=<str>", "Compatibility level (v2 [0.10] or v3 [1.1])"],
  ["data_file=<str>", "File name of an external data file"],
  ["data_file_raw=<bool (on/off)>", "The external data file must stay valid as a raw image"],
  ["encrypt.iter-time=<num>", "Time to spend in PBKDF in milliseconds"],
  ["encrypt.keyslot=<num>", "Select a single keyslot to modify explicitly"],
  ["encrypt.new-secret=<str>", "New secret to set in the matching keyslots. Empty string to erase"],
  ["encrypt.old-secret=<str>", "Select all keyslots that match this password"],
  ["encrypt.state=<str>", "Select new state of affected keyslots (active/inactive)"],
  ["lazy_refcounts=<bool (on/off)>", "Postpone refcount updates"],
  ["refcount_bits=<num>", "Width of a reference count entry in bits"],
  ["size=<size>", "Virtual disk size"],
];
const HELP_COLUMN = 22;

/** Whether a list of options asks what there is. @throws {BlockError} EINVAL when it is no list. */
export function asksForHelp(lists: readonly string[]): boolean {
  checkOptionLists(lists);
  return lists.flatMap(splitAtCommas).some((entry) => entry === "help" || entry === "?");
}

/** Prints them. @returns the exit code. @throws {UsageError} when there is no such format. */
export async function printOptionHelp(format = "raw"): Promise<number> {
  const options = Object.hasOwn(HELP, format) ? HELP[format] : undefined;
  if (options === undefined) throw new UsageError(`Unknown file format '${format}'`);
  printHelp(`Supported ${format} options:`, options);
  return EXIT_OK;
}

/** The same for those of `amend`. @param known the options that the format can change */
export function printAmendHelp(format: string, known: readonly string[]): number {
  const options = AMEND_HELP.filter(([option]) => known.includes(option.replace(/=.*/, "")));
  printHelp(`Amend options for '${format}':`, options);
  return EXIT_OK;
}

function printHelp(title: string, options: readonly (readonly [option: string, about: string])[]): void {
  const lines = options.map(([option, about]) => `  ${option.padEnd(HELP_COLUMN)} - ${about}`);
  print(`${title}\n${lines.join("\n")}\n`);
}
