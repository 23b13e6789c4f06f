/** QEMU's cache modes, as options name them. Files always go through the host's page cache here. */
import { UsageError } from "./command.ts";

export const CACHE_MODES = ["none", "writeback", "writethrough", "directsync", "unsafe"] as const;

export type CacheMode = (typeof CACHE_MODES)[number];

function isCacheMode(text: string): text is CacheMode {
  return (CACHE_MODES as readonly string[]).includes(text);
}

/** @throws {UsageError} in qemu-img's words for a mode that there is not. */
export function checkCacheModes(cache = "writeback", sourceCache = "writeback"): void {
  if (!isCacheMode(cache)) throw new UsageError(`Invalid cache option: ${cache}`);
  if (!isCacheMode(sourceCache)) throw new UsageError(`Invalid source cache option: ${sourceCache}`);
}

/** What a flush of an image that is written in this mode is worth. */
export function targetCache(mode: CacheMode): "unsafe" | "writeback" | "writethrough" {
  if (mode === "unsafe") return "unsafe";
  return mode === "writethrough" || mode === "directsync" ? "writethrough" : "writeback";
}
