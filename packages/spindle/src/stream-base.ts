/** Finds the image at which a stream stops, by the name that a user has for it. */
import { realpathSync } from "node:fs";
import { dirname } from "node:path";
import { BlockError } from "@spindle/base";
import { type BlockNode, chainOf } from "@spindle/block";
import type { StreamOptions } from "@spindle/jobs";

/**
 * The options that make a stream stop above the image `base` of the chain below `top`: a path from here, or the name
 * that stands in the image above it.
 * @throws {BlockError} ENOENT with QEMU's text when the chain has no such image.
 */
export function streamBase(top: BlockNode, base: string): Pick<StreamOptions, "baseNode" | "backingFile"> {
  const layers = chainOf(top);
  const path = realPath(base);
  const index = layers.findIndex(
    (layer, depth) =>
      depth > 0 &&
      (layer.filename === base || layer.filename === path || layers[depth - 1]?.driver.backingFile?.filename === base),
  );
  const layer = layers[index];
  if (layer === undefined) throw new BlockError("ENOENT", `Can't find '${base}' in the backing chain`);
  const above = layers[index - 1] as BlockNode;
  const written = above.driver.backingFile?.filename;
  // A name that counts from the folder of the image above it means the same in the top when that has the same folder.
  const keeps = written !== undefined && folderOf(above) === folderOf(layers[0] as BlockNode);
  return { baseNode: layer.name, ...(keeps ? { backingFile: written } : {}) };
}

function folderOf({ filename }: BlockNode): string | undefined {
  return filename === null ? undefined : realPath(dirname(filename));
}

function realPath(path: string): string | undefined {
  try {
    return realpathSync(path);
  } catch {
    return undefined;
  }
}
