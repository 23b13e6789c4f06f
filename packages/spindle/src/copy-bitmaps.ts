/** Takes persistent bitmaps from one image to another: what `qemu-img convert --bitmaps` does beside the copy. */
import { BlockError, type Co, isBlockError } from "@spindle/base";
import type { BlockNode, DirtyBitmap, DirtyBitmaps } from "@spindle/block";

/**
 * Those that can be copied, in the order of the image.
 * @param skipped hears of those that cannot
 * @throws {BlockError} ENOTSUP for sources of a kind without bitmaps, EINVAL when one cannot be copied and nobody hears.
 */
export function bitmapsToCopy(
  sources: readonly BlockNode[],
  skipped: ((name: string) => void) | undefined,
): readonly DirtyBitmap[] {
  if (sources.length > 1) throw new BlockError("EINVAL", "Copying bitmaps only possible with single source");
  const all = sources[0]?.bitmaps.persistent() ?? null;
  if (all === null) throw new BlockError("ENOTSUP", "Source lacks bitmap support");
  // QEMU goes through them from the last to the first.
  for (const { name } of all.filter(({ inconsistent }) => inconsistent).reverse()) {
    if (skipped === undefined)
      throw new BlockError("EINVAL", `Cannot copy inconsistent bitmap '${name}'`, {
        hint: "Try --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' to delete it",
      });
    skipped(name);
  }
  return all.filter(({ inconsistent }) => !inconsistent);
}

/** @throws {BlockError} ENOTSUP, in QEMU's words. */
export function checkKeepsBitmaps({ bitmaps, driver }: BlockNode): void {
  if (bitmaps.persistent() !== null) return;
  throw new BlockError("ENOTSUP", `Format driver '${driver.name}' does not support bitmaps`);
}

/** Nobody else uses the target. @throws {BlockError} EEXIST and what cannot be stored, in QEMU's words. */
export function* copyBitmaps(bitmaps: readonly DirtyBitmap[], from: DirtyBitmaps, to: DirtyBitmaps): Co<void> {
  // New ones are stored the newest first: so they keep their order.
  for (const { name, granularity, enabled } of [...bitmaps].reverse()) {
    try {
      to.add({ name, granularity, enabled, persistent: true });
    } catch (error) {
      throw isBlockError(error) ? failure(`Failed to create bitmap ${name}`, error) : error;
    }
    try {
      yield* to.merge(name, [{ bitmaps: from, name }]);
    } catch (error) {
      yield* to.remove(name);
      throw isBlockError(error) ? failure(`Failed to populate bitmap ${name}`, error) : error;
    }
  }
}

function failure(what: string, error: BlockError): BlockError {
  return new BlockError(error.code, `${what}: ${error.message}`, error.context, error);
}
