/** Feature bits (virtio 1.2 §5.2.3 and §6), as two words of 32 bits because JavaScript's bit operators have no more. */

/** Bits 0 to 31 in `low`, 32 to 63 in `high`; both unsigned. */
export interface FeatureBits {
  readonly low: number;
  readonly high: number;
}

const VIRTIO_BLK_F_SEG_MAX = 2 ** 2;
const VIRTIO_BLK_F_RO = 2 ** 5;
const VIRTIO_BLK_F_BLK_SIZE = 2 ** 6;
export const VIRTIO_BLK_F_FLUSH: number = 2 ** 9;
const VIRTIO_BLK_F_TOPOLOGY = 2 ** 10;
const VIRTIO_BLK_F_MQ = 2 ** 12;
export const VIRTIO_BLK_F_DISCARD: number = 2 ** 13;
export const VIRTIO_BLK_F_WRITE_ZEROES: number = 2 ** 14;
export const VIRTIO_F_INDIRECT_DESC: number = 2 ** 28;
export const VIRTIO_F_EVENT_IDX: number = 2 ** 29;
/** In the high word: bit 32. */
const VIRTIO_F_VERSION_1_HIGH = 1;

/** What a device with these properties offers. */
export function offeredFeatures(device: { readonly readOnly: boolean; readonly queueCount: number }): FeatureBits {
  let low =
    VIRTIO_BLK_F_SEG_MAX |
    VIRTIO_BLK_F_BLK_SIZE |
    VIRTIO_BLK_F_FLUSH |
    VIRTIO_BLK_F_TOPOLOGY |
    VIRTIO_F_INDIRECT_DESC |
    VIRTIO_F_EVENT_IDX;
  if (device.readOnly) low |= VIRTIO_BLK_F_RO;
  else low |= VIRTIO_BLK_F_DISCARD | VIRTIO_BLK_F_WRITE_ZEROES;
  if (device.queueCount > 1) low |= VIRTIO_BLK_F_MQ;
  return { low: low >>> 0, high: VIRTIO_F_VERSION_1_HIGH };
}

/** Whether a driver may run the device with these: nothing that was not offered, and not the legacy interface. */
export function acceptableFeatures(driver: FeatureBits, offered: FeatureBits): boolean {
  const subset = (driver.low & ~offered.low) === 0 && (driver.high & ~offered.high) === 0;
  return subset && (driver.high & VIRTIO_F_VERSION_1_HIGH) !== 0;
}
