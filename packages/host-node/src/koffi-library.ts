/** koffi, through which all system calls go that Node lacks. It is optional, and loaded by the first who needs it. */
import { realpathSync } from "node:fs";
import { createRequire } from "node:module";
import type { KoffiFunc } from "koffi";

export type Koffi = typeof import("koffi");

/** A function of the C library that returns -1 and sets errno when it fails. */
export type NativeCall = KoffiFunc<(...parameters: unknown[]) => number>;

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
  const require = createRequire(import.meta.url);
  try {
    // Node 20 leaves symbolic links in a path as they are when the last file that it looked at was a pipe, as outputs are.
    const koffi = realpathSync.native(require.resolve("koffi"));
    return loadNative(koffi) ?? (require(koffi) as Koffi);
  } catch {
    return null;
  }
}

/**
 * Loads what koffi's own loader would find, and passes that by: it takes a third of the time of a short command to find out
 * what this file knows.
 * @returns undefined where it lies elsewhere, as it does for hosts with another C library.
 */
function loadNative(koffi: string): Koffi | undefined {
  const { platform, arch } = process;
  try {
    return createRequire(koffi)(`@koromix/koffi-${platform}-${arch}/${platform}_${arch}/koffi.node`) as Koffi;
  } catch {
    return undefined;
  }
}
