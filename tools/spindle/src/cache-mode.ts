/** QEMU's cache modes, as options name them. */
import { UsageError } from "./command.ts";

export const CACHE_MODES = ["none", "writeback", "writethrough", "directsync", "unsafe"] as const;

export type CacheMode = (typeof CACHE_MODES)[number];

function isCacheMode(text: string): text is CacheMode {
  return (CACHE_MODES as readonly string[]).includes(text);
}

/** The modes of an image and of what it is made of. @throws {UsageError} in qemu-img's words for one that there is not. */
export function cacheModes(
  cache = "writeback",
  sourceCache = "writeback",
): { cache: CacheMode; sourceCache: CacheMode } {
  if (!isCacheMode(cache)) throw new UsageError(`Invalid cache option: ${cache}`);
  if (!isCacheMode(sourceCache)) throw new UsageError(`Invalid source cache option: ${sourceCache}`);
  return { cache, sourceCache };
}

/** Whether images that are opened in this mode are read and written past the host's page cache. */
export function isDirect(mode: CacheMode | undefined): boolean {
  return mode === "none" || mode === "directsync";
}

/** What a flush of an image that is written in this mode is worth. */
export function targetCache(mode: CacheMode): "unsafe" | "writeback" | "writethrough" {
  if (mode === "unsafe") return "unsafe";
  return mode === "writethrough" || mode === "directsync" ? "writethrough" : "writeback";
}
