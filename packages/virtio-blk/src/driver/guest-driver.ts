/**
 * The driver's side of device initialisation (virtio 1.2 §3.1 and §4.2.3): lays the rings out in guest memory and brings
 * the device up through its registers. What it returns can be posted to the threads on which the guest uses its queues.
 */
import { alignUp, BlockError, type Co, type Condition, SECTOR_SIZE } from "@spindle/base";
import type { VirtioBlkHandle } from "../create-device.ts";
import {
  VIRTIO_CONFIG_S_ACKNOWLEDGE,
  VIRTIO_CONFIG_S_DRIVER,
  VIRTIO_CONFIG_S_DRIVER_OK,
  VIRTIO_CONFIG_S_FEATURES_OK,
} from "../device-state.ts";
import { type FeatureBits, ringFeatures } from "../features.ts";
import { GuestMemory } from "../guest-memory.ts";
import {
  availEventOffset,
  DESCRIPTOR_BYTES,
  legacyLayout,
  type QueueLayout,
  usedEventOffset,
} from "../queue-layout.ts";
import * as mmio from "../registers.ts";

/** Bytes that a request takes beside its data: header, segment, status, indirect table. */
export const SLOT_BYTES = 128;

const PAGE_SIZE = 4096;

/** Where one queue and the buffers of its requests stand in guest memory. */
export interface GuestQueuePlan {
  readonly index: number;
  readonly layout: QueueLayout;
  /** Address of the slots: SLOT_BYTES for each request that can be in flight. */
  readonly slotsAddress: number;
  /** Address of the data buffers, one for each slot. */
  readonly dataAddress: number;
  /** Bytes of one data buffer: the largest read or write. */
  readonly dataBytes: number;
}

/** A guest whose device runs, fit to be posted to other threads. */
export interface GuestHandle {
  readonly device: VirtioBlkHandle;
  readonly features: FeatureBits;
  readonly queues: readonly GuestQueuePlan[];
}

export interface GuestPlanOptions {
  readonly queueCount?: number;
  /** Entries of each queue; 128 when left out. */
  readonly queueSize?: number;
  /** Bytes of the largest read or write; 65536 when left out. */
  readonly dataBytes?: number;
  /** Puts the rings of each queue in one piece, as legacy devices have them. */
  readonly legacy?: boolean;
  /** Guest-physical address where everything begins, a multiple of 4096. */
  readonly base?: number;
}

/** Lays queues out one after the other. `length` is the bytes of guest memory from `base` on that this takes. */
export function planGuest(options: GuestPlanOptions = {}): { queues: GuestQueuePlan[]; length: number } {
  const { queueCount = 1, queueSize = 128, base = 0, legacy = false } = options;
  const dataBytes = alignUp(options.dataBytes ?? 65_536, PAGE_SIZE);
  // To a legacy device page 0 means no rings.
  let address = legacy ? Math.max(base, PAGE_SIZE) : base;
  const allocate = (length: number): number => {
    const start = address;
    address += alignUp(length, PAGE_SIZE);
    return start;
  };
  const queues = Array.from({ length: queueCount }, (_, index) => ({
    index,
    layout: legacy
      ? legacyLayout(allocate(legacyRingBytes(queueSize)), queueSize, PAGE_SIZE)
      : {
          size: queueSize,
          descriptorAddress: allocate(DESCRIPTOR_BYTES * queueSize),
          driverAddress: allocate(usedEventOffset(queueSize) + 2),
          deviceAddress: allocate(availEventOffset(queueSize) + 2),
        },
    slotsAddress: allocate(SLOT_BYTES * queueSize),
    dataAddress: allocate(dataBytes * queueSize),
    dataBytes,
  }));
  return { queues, length: address - base };
}

/**
 * Resets the device and brings it up with the given queues; where the registers are those of a legacy device, as a legacy
 * driver, for which the queues were planned.
 * @param refused features that the driver does without; it takes everything else that is offered
 * @throws {BlockError} ENOTSUP when there is no such device, EINVAL when it refuses the features or a queue.
 */
export function* startGuest(
  registers: mmio.Registers,
  device: VirtioBlkHandle,
  queues: readonly GuestQueuePlan[],
  refused: Partial<FeatureBits> = {},
): Co<GuestHandle> {
  const version = registers.read(mmio.VIRTIO_MMIO_VERSION);
  const found =
    registers.read(mmio.VIRTIO_MMIO_MAGIC_VALUE) === mmio.VIRTIO_MMIO_MAGIC &&
    (version === 1 || version === 2) &&
    registers.read(mmio.VIRTIO_MMIO_DEVICE_ID) === mmio.VIRTIO_ID_BLOCK;
  if (!found) throw new BlockError("ENOTSUP", "there is no virtio-blk device at these registers");
  yield* resetDevice(registers);
  addStatus(registers, VIRTIO_CONFIG_S_ACKNOWLEDGE);
  addStatus(registers, VIRTIO_CONFIG_S_DRIVER);
  const legacy = version === 1;
  const features = legacy ? negotiateLegacy(registers, refused) : negotiate(registers, refused);
  const memory = new GuestMemory(device.memory);
  const { packed } = ringFeatures(features);
  for (const queue of queues) {
    clearRings(memory, queue.layout, packed);
    if (legacy) setUpLegacyQueue(registers, queue);
    else setUpQueue(registers, queue);
  }
  addStatus(registers, VIRTIO_CONFIG_S_DRIVER_OK);
  return { device, features, queues };
}

/** Resets the device and waits until nothing of it is in flight. */
export function* resetDevice(registers: mmio.Registers): Co<void> {
  registers.write(mmio.VIRTIO_MMIO_STATUS, 0);
  const reset: Condition = { kind: "condition", ready: () => registers.read(mmio.VIRTIO_MMIO_STATUS) === 0 };
  if (!reset.ready()) yield reset;
}

/** Bytes of the disk as the configuration space says, read so that a change in between is noticed. */
export function readCapacity(registers: mmio.Registers): number {
  for (;;) {
    const generation = registers.read(mmio.VIRTIO_MMIO_CONFIG_GENERATION);
    const low = registers.read(mmio.VIRTIO_MMIO_CONFIG);
    const high = registers.read(mmio.VIRTIO_MMIO_CONFIG + 4);
    if (registers.read(mmio.VIRTIO_MMIO_CONFIG_GENERATION) === generation) return (high * 2 ** 32 + low) * SECTOR_SIZE;
  }
}

function addStatus(registers: mmio.Registers, bit: number): void {
  registers.write(mmio.VIRTIO_MMIO_STATUS, registers.read(mmio.VIRTIO_MMIO_STATUS) | bit);
}

function negotiate(registers: mmio.Registers, refused: Partial<FeatureBits>): FeatureBits {
  registers.write(mmio.VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
  const low = (registers.read(mmio.VIRTIO_MMIO_DEVICE_FEATURES) & ~(refused.low ?? 0)) >>> 0;
  registers.write(mmio.VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
  const high = (registers.read(mmio.VIRTIO_MMIO_DEVICE_FEATURES) & ~(refused.high ?? 0)) >>> 0;
  registers.write(mmio.VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
  registers.write(mmio.VIRTIO_MMIO_DRIVER_FEATURES, low);
  registers.write(mmio.VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
  registers.write(mmio.VIRTIO_MMIO_DRIVER_FEATURES, high);
  addStatus(registers, VIRTIO_CONFIG_S_FEATURES_OK);
  if ((registers.read(mmio.VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_FEATURES_OK) === 0)
    throw new BlockError("EINVAL", "the device refuses the driver's features");
  return { low, high };
}

/** A legacy device has no way to refuse features: what it does not know it does not take. */
function negotiateLegacy(registers: mmio.Registers, refused: Partial<FeatureBits>): FeatureBits {
  registers.write(mmio.VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
  const low = (registers.read(mmio.VIRTIO_MMIO_DEVICE_FEATURES) & ~(refused.low ?? 0)) >>> 0;
  registers.write(mmio.VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
  registers.write(mmio.VIRTIO_MMIO_DRIVER_FEATURES, low);
  registers.write(mmio.VIRTIO_MMIO_GUEST_PAGE_SIZE, PAGE_SIZE);
  return { low, high: 0 };
}

function setUpLegacyQueue(registers: mmio.Registers, { index, layout }: GuestQueuePlan): void {
  const page = layout.descriptorAddress / PAGE_SIZE;
  registers.write(mmio.VIRTIO_MMIO_QUEUE_SEL, index);
  registers.write(mmio.VIRTIO_MMIO_QUEUE_NUM, layout.size);
  registers.write(mmio.VIRTIO_MMIO_QUEUE_ALIGN, PAGE_SIZE);
  registers.write(mmio.VIRTIO_MMIO_QUEUE_PFN, page);
  if (registers.read(mmio.VIRTIO_MMIO_QUEUE_PFN) !== page)
    throw new BlockError("EINVAL", `the device refuses virtqueue ${index}`);
}

function clearRings(memory: GuestMemory, layout: QueueLayout, packed: boolean): void {
  const { size, descriptorAddress, driverAddress, deviceAddress } = layout;
  if (packed) clearMemory(memory, descriptorAddress, DESCRIPTOR_BYTES * size);
  clearMemory(memory, driverAddress, usedEventOffset(size) + 2);
  clearMemory(memory, deviceAddress, availEventOffset(size) + 2);
}

/** Bytes of the rings of a legacy queue, from the first descriptor to the end. */
function legacyRingBytes(size: number): number {
  return legacyLayout(0, size, PAGE_SIZE).deviceAddress + availEventOffset(size) + 2;
}

function setUpQueue(registers: mmio.Registers, queue: GuestQueuePlan): void {
  const { size, descriptorAddress, driverAddress, deviceAddress } = queue.layout;
  registers.write(mmio.VIRTIO_MMIO_QUEUE_SEL, queue.index);
  registers.write(mmio.VIRTIO_MMIO_QUEUE_NUM, size);
  writeAddress(registers, mmio.VIRTIO_MMIO_QUEUE_DESC_LOW, descriptorAddress);
  writeAddress(registers, mmio.VIRTIO_MMIO_QUEUE_DRIVER_LOW, driverAddress);
  writeAddress(registers, mmio.VIRTIO_MMIO_QUEUE_DEVICE_LOW, deviceAddress);
  registers.write(mmio.VIRTIO_MMIO_QUEUE_READY, 1);
  if (registers.read(mmio.VIRTIO_MMIO_QUEUE_READY) !== 1)
    throw new BlockError("EINVAL", `the device refuses virtqueue ${queue.index}`);
}

function writeAddress(registers: mmio.Registers, lowRegister: number, address: number): void {
  registers.write(lowRegister, address % 2 ** 32);
  registers.write(lowRegister + 4, Math.floor(address / 2 ** 32));
}

function clearMemory(memory: GuestMemory, address: number, length: number): void {
  const views: Uint8Array[] = [];
  if (!memory.translate(address, length, views)) throw new BlockError("EINVAL", "the rings are outside of memory");
  for (const view of views) view.fill(0);
}
