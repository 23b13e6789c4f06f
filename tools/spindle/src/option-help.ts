/** What `create`, `convert` and `amend` print for `-o help`: the options of a format and of the file it is in. */
import { amendOptions, creatableFormat } from "spindle";
import { EXIT_OK } from "./exit-codes.ts";
import { print } from "./output.ts";

/** What qemu-img says of an option, by the option and its kind of value; in its order, which is the alphabet's. */
type OptionTexts = Readonly<Record<string, string>>;

const CIPHER: OptionTexts = {
  "cipher-alg=<str>": "Name of encryption cipher algorithm",
  "cipher-mode=<str>": "Name of encryption cipher mode",
  "hash-alg=<str>": "Name of encryption hash algorithm",
  "iter-time=<num>": "Time to spend in PBKDF in milliseconds",
  "ivgen-alg=<str>": "Name of IV generator algorithm",
  "ivgen-hash-alg=<str>": "Name of IV generator hash algorithm",
};

const KEY_SLOTS: OptionTexts = {
  "iter-time=<num>": "Time to spend in PBKDF in milliseconds",
  "keyslot=<num>": "Select a single keyslot to modify explicitly",
  "new-secret=<str>": "New secret to set in the matching keyslots. Empty string to erase",
  "old-secret=<str>": "Select all keyslots that match this password",
  "state=<str>": "Select new state of affected keyslots (active/inactive)",
};

const SIZE: OptionTexts = { "size=<size>": "Virtual disk size" };

/** Of qcow2, when an image is created and later. */
const QCOW2: OptionTexts = {
  "backing_file=<str>": "File name of a base image",
  "backing_fmt=<str>": "Image format of the base image",
  "compat=<str>": "Compatibility level (v2 [0.10] or v3 [1.1])",
  "data_file=<str>": "File name of an external data file",
  "data_file_raw=<bool (on/off)>": "The external data file must stay valid as a raw image",
  "lazy_refcounts=<bool (on/off)>": "Postpone refcount updates",
  "refcount_bits=<num>": "Width of a reference count entry in bits",
  ...SIZE,
};

const CREATE: Readonly<Record<string, OptionTexts>> = {
  qcow2: {
    ...QCOW2,
    ...encrypted(CIPHER),
    "cluster_size=<size>": "qcow2 cluster size",
    "compression_type=<str>": "Compression method used for image cluster compression",
    "encrypt.format=<str>": "Encrypt the image, format choices: 'aes', 'luks'",
    "encrypt.key-secret=<str>": "ID of secret providing qcow AES key or LUKS passphrase",
    "encryption=<bool (on/off)>": "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
    "extended_l2=<bool (on/off)>": "Extended L2 tables",
    "preallocation=<str>": "Preallocation mode (allowed values: off, metadata, falloc, full)",
  },
  luks: { ...CIPHER, ...SIZE, "key-secret=<str>": "ID of the secret that provides the keyslot passphrase" },
  raw: SIZE,
};

/** Of the file in which an image stands. */
const FILE: OptionTexts = {
  "extent_size_hint=<size>": "Extent size hint for the image file, 0 to disable",
  "nocow=<bool (on/off)>": "Turn off copy-on-write (valid only on btrfs)",
  "preallocation=<str>": "Preallocation mode (allowed values: off, falloc, full)",
  ...SIZE,
};

const AMEND: Readonly<Record<string, OptionTexts>> = {
  qcow2: { ...QCOW2, ...encrypted(KEY_SLOTS) },
  luks: KEY_SLOTS,
};

const HELP_COLUMN = 22;

/**
 * Prints the options of a format; with a file to create, also those of files.
 * @returns the exit code. @throws {BlockError} EINVAL when there is no such format, ENOTSUP when it cannot be created.
 */
export function printCreateHelp(format = "raw", filename: string | undefined = undefined): number {
  const own = CREATE[creatableFormat(format).name] ?? {};
  if (filename !== undefined) {
    printHelp("Supported options:", { ...FILE, ...own });
    return EXIT_OK;
  }
  printHelp(`Supported ${format} options:`, own);
  print("\nThe protocol level may support further options.\nSpecify the target filename to include those options.\n");
  return EXIT_OK;
}

/** The same for those of `amend`. @throws {BlockError} EINVAL when there is no such format, ENOTSUP when it has none. */
export function printAmendHelp(format: string): number {
  const known = amendOptions(format);
  const texts = Object.entries(AMEND[format] ?? {}).filter(([option]) => known.includes(option.replace(/=.*/, "")));
  printHelp(`Amend options for '${format}':`, Object.fromEntries(texts));
  return EXIT_OK;
}

function encrypted(options: OptionTexts): OptionTexts {
  return Object.fromEntries(Object.entries(options).map(([option, about]) => [`encrypt.${option}`, about]));
}

function printHelp(title: string, options: OptionTexts): void {
  const inOrder = Object.entries(options).sort(([a], [b]) => (a < b ? -1 : 1));
  const lines = inOrder.map(([option, about]) => `  ${option.padEnd(HELP_COLUMN)} - ${about}\n`);
  print(`${title}\n${lines.join("")}`);
}
