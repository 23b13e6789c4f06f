/** One run of a disk as a layer sees it: what `blockStatus` answers, in QEMU's terms. */
import type { BlockNode } from "./node.ts";

export interface Extent {
  /** Bytes, at least 1. */
  readonly length: number;
  /** This layer decides what is read here; otherwise its backing file does, or zeros where there is none. */
  readonly allocated: boolean;
  /** It is known to read as zeros. */
  readonly zero: boolean;
  /** Data is stored for it. */
  readonly data: boolean;
  readonly compressed: boolean;
  /** Where the data stands as plain bytes: from this offset of `file`. Absent for compressed data; zeros may have kept space. */
  readonly hostOffset?: number;
  /** The node in which `hostOffset` counts. */
  readonly file?: BlockNode;
}

/** The status of a range that this layer leaves to its backing file. */
export function unallocatedExtent(length: number): Extent {
  return { length, allocated: false, zero: false, data: false, compressed: false };
}

/** The status of a range that this layer defines as zeros without storing them. */
export function zeroExtent(length: number): Extent {
  return { length, allocated: true, zero: true, data: false, compressed: false };
}
