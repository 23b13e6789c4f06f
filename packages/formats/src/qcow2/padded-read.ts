/** Reads from an image file as if zeros followed its end: tables at the end of a file may be cut off behind their last entry. */
import type { Co } from "@spindle/base";
import { type BlockNode, IoVector } from "@spindle/block";

/** Fills `bytes` from `offset` on. */
export function* readPadded(file: BlockNode, offset: number, bytes: Uint8Array): Co<void> {
  const present = Math.max(0, Math.min(bytes.length, file.length - offset));
  if (present > 0) yield* file.read(offset, IoVector.of(bytes.subarray(0, present)));
  bytes.fill(0, present);
}
