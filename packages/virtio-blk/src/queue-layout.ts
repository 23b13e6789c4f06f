/**
 * Where the three parts of a virtqueue stand in guest memory, and what their words mean, for the device and the driver:
 * split (virtio 1.2 §2.7) and packed (§2.8).
 */
import { alignUp, isPowerOfTwo } from "@spindle/base";
import type { GuestMemory, GuestWindow } from "./guest-memory.ts";

/** The largest queue size that 16-bit indices can tell full from empty. */
export const QUEUE_SIZE_LIMIT = 32_768;

export const VIRTQ_DESC_F_NEXT = 1;
export const VIRTQ_DESC_F_WRITE = 2;
export const VIRTQ_DESC_F_INDIRECT = 4;
export const VIRTQ_AVAIL_F_NO_INTERRUPT = 1;
export const VIRTQ_USED_F_NO_NOTIFY = 1;

/** Of the descriptors of a packed ring: both together say whose the descriptor is, against a wrap counter. */
export const VIRTQ_DESC_F_AVAIL: number = 2 ** 7;
export const VIRTQ_DESC_F_USED: number = 2 ** 15;
/** Of the event suppression structures of a packed ring. */
export const RING_EVENT_FLAGS_ENABLE = 0;
export const RING_EVENT_FLAGS_DISABLE = 1;
export const RING_EVENT_FLAGS_DESC = 2;

/** Bytes of one descriptor: address, length, flags, next; in a packed ring address, length, id, flags. */
export const DESCRIPTOR_BYTES = 16;
/** Offset of `idx` in the available and in the used ring; `flags` stands before it. */
export const INDEX_OFFSET = 2;
/** Offset of the first entry of either ring. */
export const RING_OFFSET = 4;
/** Bytes of one entry of the used ring: id, len. */
export const USED_ELEMENT_BYTES = 8;

/** Offsets of the id and the flags in a descriptor of a packed ring. */
export const PACKED_ID_OFFSET = 12;
export const PACKED_FLAGS_OFFSET = 14;
/** Bytes of an event suppression structure: offset with wrap counter, flags. */
const EVENT_BYTES = 4;

/** Guest-physical addresses and the number of entries, as the driver gives them to the transport. */
export interface QueueLayout {
  /** Entries of each part; of a packed queue, descriptors of its ring. */
  readonly size: number;
  /** The Descriptor Area. */
  readonly descriptorAddress: number;
  /** The Driver Area: the available ring, or the driver's event suppression structure. */
  readonly driverAddress: number;
  /** The Device Area: the used ring, or the device's event suppression structure. */
  readonly deviceAddress: number;
}

/** Where the parts of a queue stand that has them in one piece, as legacy drivers do (§2.7.2). Numbers are bytes. */
export function legacyLayout(address: number, size: number, alignment: number): QueueLayout {
  const driverAddress = address + DESCRIPTOR_BYTES * size;
  const deviceAddress = alignUp(driverAddress + usedEventOffset(size) + 2, alignment);
  return { size, descriptorAddress: address, driverAddress, deviceAddress };
}

/** The three parts of a split queue, checked and ready for access. */
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

/** The three parts of a packed queue. */
export interface PackedWindows {
  readonly ring: GuestWindow;
  readonly driverEvents: GuestWindow;
  readonly deviceEvents: GuestWindow;
}

/**
 * Checks a split layout that came from a guest: the size a power of two up to 32768, each part aligned, wholly in one
 * region of memory, and apart from the others.
 * @returns undefined when any of that does not hold.
 */
export function openQueueLayout(memory: GuestMemory, layout: QueueLayout): QueueWindows | undefined {
  const { size, descriptorAddress, driverAddress, deviceAddress } = layout;
  if (!isPowerOfTwo(size) || size > QUEUE_SIZE_LIMIT) return undefined;
  const windows = openParts(memory, [
    { address: descriptorAddress, length: DESCRIPTOR_BYTES * size, alignment: 16 },
    { address: driverAddress, length: usedEventOffset(size) + 2, alignment: 2 },
    { address: deviceAddress, length: availEventOffset(size) + 2, alignment: 4 },
  ]);
  return windows && { descriptors: windows[0], available: windows[1], used: windows[2] };
}

/** The same for a packed layout, whose size is any number from 1 to 32768. */
export function openPackedLayout(memory: GuestMemory, layout: QueueLayout): PackedWindows | undefined {
  const { size, descriptorAddress, driverAddress, deviceAddress } = layout;
  if (!Number.isInteger(size) || size < 1 || size > QUEUE_SIZE_LIMIT) return undefined;
  const windows = openParts(memory, [
    { address: descriptorAddress, length: DESCRIPTOR_BYTES * size, alignment: 16 },
    { address: driverAddress, length: EVENT_BYTES, alignment: 4 },
    { address: deviceAddress, length: EVENT_BYTES, alignment: 4 },
  ]);
  return windows && { ring: windows[0], driverEvents: windows[1], deviceEvents: windows[2] };
}

interface Part {
  readonly address: number;
  readonly length: number;
  readonly alignment: number;
}

function openParts(
  memory: GuestMemory,
  parts: readonly [Part, Part, Part],
): readonly [GuestWindow, GuestWindow, GuestWindow] | undefined {
  if (parts.some(({ address, alignment }) => address % alignment !== 0)) return undefined;
  const [first, second, third] = parts.map(({ address, length }) => memory.window(address, length));
  if (first === undefined || second === undefined || third === undefined) return undefined;
  const ordered = [...parts].sort((a, b) => a.address - b.address);
  const overlap = ordered.some((part, index) => {
    const next = ordered[index + 1];
    return next !== undefined && part.address + part.length > next.address;
  });
  return overlap ? undefined : [first, second, third];
}
