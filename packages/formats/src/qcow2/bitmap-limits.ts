/** What an image can keep of persistent bitmaps, in QEMU's words. */
import { BlockError, encodeUtf8 } from "@spindle/base";
import type { DirtyBitmap } from "@spindle/block";
import {
  BITMAP_BYTES_MAX,
  BITMAPS_MAX,
  bitmapEntryLength,
  bitmapTableEntries,
  DIRECTORY_BYTES_MAX,
  GRANULARITY_BITS,
  NAME_MAX,
} from "./bitmap-directory.ts";
import type { Qcow2Header } from "./header.ts";

/**
 * @param others the bitmaps that there are
 * @throws {BlockError} ENOTSUP, EINVAL or EFBIG when the image cannot keep one more with this name and granularity.
 */
export function checkStorable(
  { version, size, clusterBits }: Qcow2Header,
  nodeName: string,
  { name, granularity }: Pick<DirtyBitmap, "name" | "granularity">,
  others: readonly DirtyBitmap[],
): void {
  const refuse = (code: "ENOTSUP" | "EINVAL" | "EFBIG", why: string): never => {
    throw new BlockError(code, `Can't make bitmap '${name}' persistent in '${nodeName}': ${why}`);
  };
  if (version < 3) refuse("ENOTSUP", "Cannot store dirty bitmaps in qcow2 v2 files");
  const nameLength = encodeUtf8(name).length;
  if (nameLength > NAME_MAX) refuse("EINVAL", `Name length exceeds maximum (${NAME_MAX} characters)`);
  const most = 2 ** GRANULARITY_BITS.most;
  if (granularity > most) refuse("EINVAL", `Granularity exceeds maximum (${most} bytes)`);
  const clusterSize = 2 ** clusterBits;
  if (bitmapTableEntries(size, granularity, clusterSize) * clusterSize > BITMAP_BYTES_MAX)
    refuse("EFBIG", "Too much space will be occupied by the bitmap. Use larger granularity");
  const kept = others.filter(({ persistent }) => persistent);
  if (kept.length >= BITMAPS_MAX) refuse("EINVAL", "Maximum number of persistent bitmaps is already reached");
  const lengths = [...kept.map((other) => encodeUtf8(other.name).length), nameLength];
  if (lengths.reduce((sum, length) => sum + bitmapEntryLength(length), 0) > DIRECTORY_BYTES_MAX)
    refuse("EINVAL", "Not enough space in the bitmap directory");
}
