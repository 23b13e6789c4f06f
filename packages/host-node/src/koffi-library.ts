/** koffi, through which all system calls go that Node lacks. It is optional, and loaded by the first who needs it. */
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
    return loadNative(require.resolve("koffi")) ?? (require("koffi") as Koffi);
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
