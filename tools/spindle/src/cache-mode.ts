/** QEMU's cache modes, as options name them. Files always go through the host's page cache here. */

export const CACHE_MODES = ["none", "writeback", "writethrough", "directsync", "unsafe"] as const;

export type CacheMode = (typeof CACHE_MODES)[number];

export function isCacheMode(text: string): text is CacheMode {
  return (CACHE_MODES as readonly string[]).includes(text);
}

/** What a flush of an image that is written in this mode is worth. */
export function targetCache(mode: CacheMode): "unsafe" | "writeback" | "writethrough" {
  if (mode === "unsafe") return "unsafe";
  return mode === "writethrough" || mode === "directsync" ? "writethrough" : "writeback";
}
