/** Feature bits (virtio 1.2 §5.2.3 and §6), as two words of 32 bits because JavaScript's bit operators have no more. */
import type { RingFeatures } from "./virtqueue.ts";

/** Bits 0 to 31 in `low`, 32 to 63 in `high`; both unsigned. */
export interface FeatureBits {
  readonly low: number;
  readonly high: number;
}

const VIRTIO_BLK_F_SIZE_MAX = 2 ** 1;
const VIRTIO_BLK_F_SEG_MAX = 2 ** 2;
const VIRTIO_BLK_F_GEOMETRY = 2 ** 4;
const VIRTIO_BLK_F_RO = 2 ** 5;
const VIRTIO_BLK_F_BLK_SIZE = 2 ** 6;
export const VIRTIO_BLK_F_FLUSH: number = 2 ** 9;
const VIRTIO_BLK_F_TOPOLOGY = 2 ** 10;
export const VIRTIO_BLK_F_CONFIG_WCE: number = 2 ** 11;
const VIRTIO_BLK_F_MQ = 2 ** 12;
export const VIRTIO_BLK_F_DISCARD: number = 2 ** 13;
export const VIRTIO_BLK_F_WRITE_ZEROES: number = 2 ** 14;
/** What legacy devices say that assume nothing about framing. */
export const VIRTIO_F_ANY_LAYOUT: number = 2 ** 27;
export const VIRTIO_F_INDIRECT_DESC: number = 2 ** 28;
export const VIRTIO_F_EVENT_IDX: number = 2 ** 29;
/** In the high word: bits 32, 34 and 35. */
export const VIRTIO_F_VERSION_1_HIGH: number = 2 ** 0;
const VIRTIO_F_RING_PACKED_HIGH = 2 ** 2;
const VIRTIO_F_IN_ORDER_HIGH = 2 ** 3;

/** What decides over the features that a device offers. */
export interface FeatureOptions {
  readonly readOnly: boolean;
  readonly queueCount: number;
  readonly packed: boolean;
  readonly inOrder: boolean;
  readonly configWce: boolean;
  /** Whether the largest buffer of a request is limited. */
  readonly sizeMax: boolean;
}

/** What a device with these properties offers. */
export function offeredFeatures(device: FeatureOptions): FeatureBits {
  let low =
    VIRTIO_BLK_F_SEG_MAX |
    VIRTIO_BLK_F_GEOMETRY |
    VIRTIO_BLK_F_BLK_SIZE |
    VIRTIO_BLK_F_FLUSH |
    VIRTIO_BLK_F_TOPOLOGY |
    VIRTIO_F_INDIRECT_DESC |
    VIRTIO_F_EVENT_IDX;
  if (device.configWce) low |= VIRTIO_BLK_F_CONFIG_WCE;
  if (device.sizeMax) low |= VIRTIO_BLK_F_SIZE_MAX;
  if (device.readOnly) low |= VIRTIO_BLK_F_RO;
  else low |= VIRTIO_BLK_F_DISCARD | VIRTIO_BLK_F_WRITE_ZEROES;
  if (device.queueCount > 1) low |= VIRTIO_BLK_F_MQ;
  let high = VIRTIO_F_VERSION_1_HIGH;
  if (device.packed) high |= VIRTIO_F_RING_PACKED_HIGH;
  if (device.inOrder) high |= VIRTIO_F_IN_ORDER_HIGH;
  return { low: low >>> 0, high };
}

/** Whether a driver may run the device with these: nothing that was not offered, and not the legacy interface. */
export function acceptableFeatures(driver: FeatureBits, offered: FeatureBits): boolean {
  const subset = (driver.low & ~offered.low) === 0 && (driver.high & ~offered.high) === 0;
  return subset && (driver.high & VIRTIO_F_VERSION_1_HIGH) !== 0;
}

/** What negotiated features mean for the rings. */
export function ringFeatures({ low, high }: FeatureBits): RingFeatures {
  return {
    packed: (high & VIRTIO_F_RING_PACKED_HIGH) !== 0,
    eventIndex: (low & VIRTIO_F_EVENT_IDX) !== 0,
    indirect: (low & VIRTIO_F_INDIRECT_DESC) !== 0,
    inOrder: (high & VIRTIO_F_IN_ORDER_HIGH) !== 0,
  };
}
