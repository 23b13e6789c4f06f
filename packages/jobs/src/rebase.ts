/**
 * Makes an image independent of what its old backing file shows and the new one does not: clusters that differ are copied
 * into it. Afterwards the image shows the same over either.
 */
import { type Co, MiB, transferBytes } from "@spindle/base";
import { type BlockNode, backingOf, chainStatus, IoVector, skipFilters } from "@spindle/block";

const PIECE_BYTES: number = 2 * MiB;

export interface RebaseRequest {
  /** Opened over its old backing chain. Nobody else uses it. */
  readonly top: BlockNode;
  /** What will be below it; null for nothing, which shows zeros. */
  readonly backing: BlockNode | null;
  /** Called with the bytes of the disk that are done. */
  readonly progress?: (done: number) => void;
}

/** @throws {BlockError} what reading either chain or writing the image throws; the image shows what it did then. */
export function* copyDifferences({ top, backing, progress }: RebaseRequest): Co<void> {
  const image = skipFilters(top);
  const old = backingOf(top);
  for (let offset = 0; offset < image.length; ) {
    const extent = yield* image.blockStatus(offset, image.length - offset);
    let { length } = extent;
    if (!extent.allocated) {
      const mine = yield* statusBelow(old, offset, length);
      const its = yield* statusBelow(backing, offset, mine.length);
      length = its.length;
      if (!mine.zero || !its.zero) {
        length = Math.min(length, PIECE_BYTES - (offset % PIECE_BYTES));
        yield* copyPiece(image, { old, backing }, offset, length);
      }
    }
    offset += length;
    progress?.(offset);
  }
}

/** Beyond the end of a disk there are zeros. */
function* statusBelow(node: BlockNode | null, offset: number, length: number): Co<{ length: number; zero: boolean }> {
  if (node === null || offset >= node.length) return { length, zero: true };
  const { length: run, zero } = yield* chainStatus(node, null, offset, Math.min(length, node.length - offset));
  return { length: run, zero };
}

interface Both {
  readonly old: BlockNode | null;
  readonly backing: BlockNode | null;
}

/** Stores the clusters of a piece that are not the same below. */
function* copyPiece(image: BlockNode, { old, backing }: Both, offset: number, length: number): Co<void> {
  const mine = yield* readBelow(old, offset, length);
  const its = yield* readBelow(backing, offset, length);
  const unit = image.driver.clusterSize;
  for (let start = 0; start < length; ) {
    const end = Math.min(length, start + unit - ((offset + start) % unit));
    const cluster = mine.subarray(start, end);
    // Zeros are data, too, as in QEMU: what is written down has its place when it is written again.
    if (!isSame(cluster, its.subarray(start, end))) yield* image.write(offset + start, IoVector.of(cluster));
    start = end;
  }
}

function* readBelow(node: BlockNode | null, offset: number, length: number): Co<Uint8Array> {
  const bytes = transferBytes(length);
  const present = node === null ? 0 : Math.max(0, Math.min(length, node.length - offset));
  if (node !== null && present > 0) yield* node.read(offset, IoVector.of(bytes.subarray(0, present)));
  return bytes;
}

function isSame(one: Uint8Array, other: Uint8Array): boolean {
  for (let index = 0; index < one.length; index++) if (one[index] !== other[index]) return false;
  return true;
}
