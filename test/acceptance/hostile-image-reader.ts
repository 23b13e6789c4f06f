/**
 * Does to images what tools and servers do, in a process of its own, and tells how each attempt ended, how long it took
 * and how much memory all of it took. Arguments: a sound image, a file that lists the others, and what to do to them.
 */
import { readdirSync, readFileSync } from "node:fs";
import { isBlockError } from "@spindle/base";
import { checkImage, imageInfo, openDisk } from "spindle";

/** How an attempt ended. */
export interface Attempt {
  readonly image: string;
  readonly what: Action;
  /** The error's code, `""` when there was none; its name where it is no BlockError. */
  readonly code: string;
  /** Time of the processor. */
  readonly cpuMs: number;
}

export interface Report {
  readonly attempts: readonly Attempt[];
  /** By how much the process has grown at most. */
  readonly grownBytes: number;
  /** Files that are open at the end, and were not at the begin. */
  readonly leftOpen: number;
}

/** Runs of a map, and bytes of a disk, that are looked at. */
const RUNS_MAX = 1000;
const READ_BYTES = 65_536;
const FORMAT = "qcow2";

export type Action = "info" | "check" | "map" | "read" | "write";

const ACTIONS: Readonly<Record<Action, (path: string) => Promise<void>>> = {
  async info(path) {
    await imageInfo(path, { format: FORMAT });
  },
  async check(path) {
    await checkImage(path, { format: FORMAT });
  },
  async map(path) {
    await using disk = await openDisk(path, { format: FORMAT, readOnly: true });
    let count = 0;
    for await (const _run of disk.map()) if (++count === RUNS_MAX) break;
  },
  async read(path) {
    await using disk = await openDisk(path, { format: FORMAT, readOnly: true });
    const length = Math.min(READ_BYTES, disk.length);
    await disk.read(0, length);
    await disk.read(disk.length - length, length);
  },
  async write(path) {
    await using disk = await openDisk(path, { format: FORMAT });
    await disk.write(0, new Uint8Array(Math.min(READ_BYTES, disk.length)).fill(1));
    await disk.flush();
  },
};

async function attempt(image: string, what: Action): Promise<Attempt> {
  const before = process.cpuUsage();
  let code = "";
  try {
    await ACTIONS[what](image);
  } catch (error) {
    code = isBlockError(error) ? error.code : String(error);
  }
  const { user, system } = process.cpuUsage(before);
  return { image, what, code, cpuMs: (user + system) / 1000 };
}

const openFiles = (): number => readdirSync("/proc/self/fd").length;
const grownTo = (): number => process.resourceUsage().maxRSS * 1024;

const [sound = "", list = "", ...named] = process.argv.slice(2);
const actions = (named.length > 0 ? named : Object.keys(ACTIONS)) as Action[];
const images = JSON.parse(readFileSync(list, "utf8")) as string[];
for (const what of actions) await attempt(sound, what);
const before = { bytes: grownTo(), files: openFiles() };
const attempts: Attempt[] = [];
for (const image of images) {
  for (const what of actions) attempts.push(await attempt(image, what));
  globalThis.gc?.();
}
const report: Report = {
  attempts,
  grownBytes: grownTo() - before.bytes,
  leftOpen: openFiles() - before.files,
};
process.stdout.write(JSON.stringify(report));
