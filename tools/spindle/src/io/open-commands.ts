/** `open`, `close` and `reopen`. */
import { type ImageName, imageFilename, imageOptions } from "../image-name.ts";
import { parsePairs } from "../key-value.ts";
import type { OptionPairs } from "../place-filename.ts";
import { CommandFailure, CommandMisuse, type ImageCommand, type ShellCommand } from "./io-command.ts";
import type { IoImage } from "./io-image.ts";
import { cacheMode, checkAioMode, DEFAULT_MODE, discardMode, type OpenMode } from "./open-mode.ts";

/** What an option says of the mode. @returns the mode with it */
function withOption(mode: OpenMode, letter: string, value: string): OpenMode {
  switch (letter) {
    case "r":
      return { ...mode, readOnly: true };
    case "U":
      return { ...mode, forceShare: true };
    case "s":
      return { ...mode, snapshot: true };
    case "C":
      return { ...mode, copyOnRead: true };
    case "n":
      return cacheMode(mode, "none");
    case "t":
      return cacheMode(mode, value);
    case "d":
      return discardMode(mode, value);
    case "i":
      checkAioMode(value);
      return mode;
    default:
      return mode;
  }
}

export const open: ShellCommand = {
  name: "open",
  shortName: "o",
  synopsis: "[-rsCnkU] [-t cache] [-d discard] [-i aio] [-o options] [path]",
  summary: "open an image",
  details: [
    "-C  keep in the image what is read from its backing files",
    "-d  discard mode: ignore or unmap",
    "-i  accepted: threads, native or io_uring",
    "-k  accepted",
    "-n  as -t none",
    "-o  options of the image's nodes, such as driver=raw",
    "-r  read-only",
    "-s  write to a file that is gone afterwards",
    "-t  cache mode: none, writethrough, writeback, directsync or unsafe",
    "-U  open it although another program may be writing it; only with -r",
  ],
  leastArguments: 1,
  mostArguments: Number.POSITIVE_INFINITY,
  letters: "snCro:ki:t:d:U",
  needs: "nothing",
  async run({ options, operands, shell }) {
    let mode = DEFAULT_MODE;
    for (const [letter, value] of options) mode = withOption(mode, letter, value);
    const texts = options.filter(([letter]) => letter === "o").map(([, value]) => value);
    if (texts.length > 0 && shell.imageOptions)
      throw new CommandFailure("--image-opts and 'open -o' are mutually exclusive");
    if (operands.length > 1) throw new CommandMisuse();
    const [name] = operands;
    await shell.open(name ?? "", mode, (): ImageName => {
      const pairs = texts.flatMap(parsePairs);
      if (name === undefined) return { pairs };
      return shell.imageOptions ? imageOptions(name) : imageFilename(name, pairs);
    });
  },
};

export const close: ImageCommand = {
  name: "close",
  shortName: "c",
  synopsis: "",
  summary: "close the image",
  needs: "image",
  run: ({ shell }) => shell.close(),
};

const TOTAL_CACHE = "cache-size";
const PART_CACHES: readonly string[] = ["l2-cache-size", "refcount-cache-size"];

/** Whether an option says all that an older one said: a new template of overlap checks, a new size of all caches. */
function replaces(key: string, older: string): boolean {
  if (key === "overlap-check" || key === "overlap-check.template") return older.startsWith("overlap-check");
  return key === older || (key === TOTAL_CACHE && PART_CACHES.includes(older));
}

/** The options that were told before, as far as those that are told now leave them. */
function joinOptions(before: OptionPairs, now: OptionPairs): OptionPairs {
  const joined = [...before.filter(([older]) => !now.some(([key]) => replaces(key, older))), ...now];
  const isTold = (pairs: OptionPairs, name: string): boolean => pairs.some(([key]) => key === name);
  const dropsTotal = !isTold(now, TOTAL_CACHE) && PART_CACHES.every((part) => isTold(joined, part));
  return dropsTotal ? joined.filter(([key]) => key !== TOTAL_CACHE) : joined;
}

/** What `reopen` is asked to change. */
interface Change {
  readonly mode: OpenMode;
  readonly pairs: ImageName["pairs"];
}

export const reopen: ImageCommand = {
  name: "reopen",
  synopsis: "[(-r|-w)] [-c cache] [-o options]",
  summary: "change how the image is open",
  details: [
    "-c  cache mode",
    "-o  options of the image's node, such as read-only=on",
    "-r  read-only from now on",
    "-w  writable from now on",
  ],
  mostArguments: Number.POSITIVE_INFINITY,
  letters: "c:o:rw",
  needs: "image",
  async run({ options, operands, shell }, image) {
    const change = requestedChange(image, options);
    if (operands.length > 0) throw new CommandMisuse();
    const { filename, pairs } = image.name;
    await shell.reopen({ filename, pairs: joinOptions(pairs, change.pairs) }, change.mode);
  },
};

/** What the options that are switches change. Files are flushed when they have to be. */
const MODE_SWITCHES: Readonly<Record<string, (mode: OpenMode, state: boolean) => OpenMode>> = {
  "read-only": (mode, readOnly) => ({ ...mode, readOnly }),
  "cache.direct": (mode, direct) => ({ ...mode, direct }),
  "cache.no-flush": (mode) => mode,
  "auto-read-only": (mode) => mode,
};

const SWITCHES: Readonly<Record<string, boolean>> = { on: true, off: false };

/** @throws {CommandFailure} when options contradict each other, or name what cannot be changed. */
function requestedChange(image: IoImage, options: readonly (readonly [string, string])[]): Change {
  let { mode } = image;
  const access = options.map(([letter]) => letter).filter((letter) => letter === "r" || letter === "w");
  const caches = options.filter(([letter]) => letter === "c").map(([, value]) => value);
  for (const cache of caches) mode = cacheMode(mode, cache);
  if (access.length > 1) throw complaint("Only one -r/-w option may be given");
  if (access.length === 1) mode = { ...mode, readOnly: access[0] === "r" };
  const own: (readonly [string, string])[] = [];
  for (const [key, value] of options.filter(([letter]) => letter === "o").flatMap(([, text]) => parsePairs(text))) {
    const change = Object.hasOwn(MODE_SWITCHES, key) ? MODE_SWITCHES[key] : undefined;
    if (change !== undefined) {
      if (key === "read-only" && access.length > 0) throw complaint("Cannot set both -r/-w and 'read-only'");
      if (key.startsWith("cache.") && caches.length > 0) throw complaint("Cannot set both -c and the cache options");
      mode = change(mode, switchValue(key, value));
    } else if (image.changeableOptions.includes(key.replace(/\..*$/, ""))) own.push([key, value]);
    else if (image.lastingOption(key) !== value)
      throw complaint(`Cannot change the option '${key.replace(/^.*\./, "")}'`);
  }
  return { mode, pairs: own };
}

function switchValue(key: string, value: string): boolean {
  const state = Object.hasOwn(SWITCHES, value) ? SWITCHES[value] : undefined;
  if (state === undefined) throw complaint(`Parameter '${key}' expects 'on' or 'off'`);
  return state;
}

function complaint(message: string): CommandFailure {
  return new CommandFailure(message, "report");
}
