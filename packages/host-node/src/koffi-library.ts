/** koffi, through which all system calls go that Node lacks. It is optional, and loaded by the first who needs it. */
import { realpathSync } from "node:fs";
import { join } from "node:path";
import type { KoffiFunc } from "koffi";

export type Koffi = typeof import("koffi");

/** A function of the C library that returns -1 and sets errno when it fails. */
export type NativeCall = KoffiFunc<(...parameters: unknown[]) => number>;

/** Typed arrays shorter than this may lie in memory that the garbage collector moves: they are not handed to calls. */
export const STABLE_BYTES_MIN = 128;

let loaded: Koffi | null | undefined;

/** koffi, or null where it is not to be had, and with SPINDLE_NO_KOFFI=1. */
export function koffiLibrary(): Koffi | null {
  if (loaded === undefined) loaded = load();
  return loaded;
}

function load(): Koffi | null {
  const wanted = process.platform === "linux" && process.env["SPINDLE_NO_KOFFI"] !== "1";
  // The prototypes that are used are those of systems where off_t has 64 bits.
  if (!wanted || (process.arch !== "x64" && process.arch !== "arm64")) return null;
  try {
    return loadBinary() ?? loadPackage();
  } catch {
    return null;
  }
}

/**
 * Loads koffi's binary from beside the bundle. To find it where packages lie takes a short command longer than to open an image.
 * @returns undefined where there is none, or none for this host.
 */
function loadBinary(): Koffi | undefined {
  const native = { exports: {} };
  try {
    process.dlopen(native, join(import.meta.dirname, "koffi.node"));
    return native.exports as Koffi;
  } catch {
    return undefined;
  }
}

function loadPackage(): Koffi {
  const require = process.getBuiltinModule("node:module").createRequire(import.meta.url);
  // Node 20 leaves symbolic links in a path as they are when the last file that it looked at was a pipe, as outputs are.
  return require(realpathSync.native(require.resolve("koffi"))) as Koffi;
}
