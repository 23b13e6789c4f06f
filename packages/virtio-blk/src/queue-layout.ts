/** Where the three parts of a split virtqueue stand in guest memory (virtio 1.2 §2.7), for the device and the driver. */
import { isPowerOfTwo } from "@spindle/base";
import type { GuestMemory, GuestWindow } from "./guest-memory.ts";

/** The largest queue size that 16-bit indices can tell full from empty. */
export const QUEUE_SIZE_LIMIT = 32_768;

export const VIRTQ_DESC_F_NEXT = 1;
export const VIRTQ_DESC_F_WRITE = 2;
export const VIRTQ_DESC_F_INDIRECT = 4;
export const VIRTQ_AVAIL_F_NO_INTERRUPT = 1;
export const VIRTQ_USED_F_NO_NOTIFY = 1;

/** Bytes of one descriptor: address, length, flags, next. */
export const DESCRIPTOR_BYTES = 16;
/** Offset of `idx` in the available and in the used ring; `flags` stands before it. */
export const INDEX_OFFSET = 2;
/** Offset of the first entry of either ring. */
export const RING_OFFSET = 4;
/** Bytes of one entry of the used ring: id, len. */
export const USED_ELEMENT_BYTES = 8;

/** Guest-physical addresses and the number of entries, as the driver gives them to the transport. */
export interface QueueLayout {
  /** Entries of each part. */
  readonly size: number;
  /** The Descriptor Area. */
  readonly descriptorAddress: number;
  /** The Driver Area: the available ring. */
  readonly driverAddress: number;
  /** The Device Area: the used ring. */
  readonly deviceAddress: number;
}

/** The three parts, checked and ready for access. */
export interface QueueWindows {
  readonly descriptors: GuestWindow;
  readonly available: GuestWindow;
  readonly used: GuestWindow;
}

/** Offset of `used_event`, behind the available ring's entries. */
export function usedEventOffset(size: number): number {
  return RING_OFFSET + 2 * size;
}

/** Offset of `avail_event`, behind the used ring's entries. */
export function availEventOffset(size: number): number {
  return RING_OFFSET + USED_ELEMENT_BYTES * size;
}

/**
 * Checks a layout that came from a guest: the size a power of two up to 32768, each part aligned, wholly in one region
 * of memory, and apart from the others.
 * @returns undefined when any of that does not hold.
 */
export function openQueueLayout(memory: GuestMemory, layout: QueueLayout): QueueWindows | undefined {
  const { size, descriptorAddress, driverAddress, deviceAddress } = layout;
  if (!isPowerOfTwo(size) || size > QUEUE_SIZE_LIMIT) return undefined;
  if (descriptorAddress % 16 !== 0 || driverAddress % 2 !== 0 || deviceAddress % 4 !== 0) return undefined;
  const parts = [
    { address: descriptorAddress, length: DESCRIPTOR_BYTES * size },
    { address: driverAddress, length: usedEventOffset(size) + 2 },
    { address: deviceAddress, length: availEventOffset(size) + 2 },
  ] as const;
  const [descriptors, available, used] = parts.map(({ address, length }) => memory.window(address, length));
  if (descriptors === undefined || available === undefined || used === undefined) return undefined;
  const ordered = [...parts].sort((a, b) => a.address - b.address);
  const overlap = ordered.some((part, index) => {
    const next = ordered[index + 1];
    return next !== undefined && part.address + part.length > next.address;
  });
  return overlap ? undefined : { descriptors, available, used };
}
