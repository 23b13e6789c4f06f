/**
 * Whether the disk behind the device counts as having a volatile write cache (virtio 1.2 §5.2.5, §5.2.6.2): with one, a
 * completed write is durable after a later flush; without, when it completes.
 */
import { type FeatureBits, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_FLUSH, VIRTIO_F_VERSION_1_HIGH } from "./features.ts";

/** What a driver has written to the field `writeback` since the last reset. */
export const CacheChoice: { readonly none: 0; readonly writethrough: 1; readonly writeback: 2 } = {
  none: 0,
  writethrough: 1,
  writeback: 2,
};
export type CacheChoice = (typeof CacheChoice)[keyof typeof CacheChoice];

/**
 * @param features what the driver negotiated
 * @param fixed whether it has: FEATURES_OK is set, or DRIVER_OK by a legacy driver
 */
export function isWriteback(features: FeatureBits, fixed: boolean, choice: CacheChoice): boolean {
  const chosen = choice !== CacheChoice.none;
  // A driver that does not know yet what it will negotiate may only be shown a mode that asks more of it.
  if (!fixed) return choice !== CacheChoice.writethrough;
  if ((features.low & VIRTIO_BLK_F_CONFIG_WCE) !== 0) {
    if (chosen) return choice === CacheChoice.writeback;
    // A legacy driver sees the mode change by what it writes to the field, and by nothing else.
    if ((features.high & VIRTIO_F_VERSION_1_HIGH) === 0) return true;
  }
  return (features.low & VIRTIO_BLK_F_FLUSH) !== 0;
}
