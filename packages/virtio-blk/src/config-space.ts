/** The device configuration space, struct virtio_blk_config (virtio 1.2 §5.2.4), as bytes. */
import { ByteView, SECTOR_SIZE } from "@spindle/base";

/** Bytes up to the last field that this device has, write_zeroes_may_unmap with its padding. */
export const CONFIG_BYTES = 60;

/** The offset of the capacity, in sectors: the first field. */
export const CAPACITY_OFFSET = 0;

/**
 * The most sectors of one discard or write zeroes segment, QEMU's: what fits a signed 32-bit count of bytes,
 * (2^31 - 1) / 512.
 */
export const MAX_SEGMENT_SECTORS = 4_194_303;

export interface ConfigurationOptions {
  /** Bytes of the disk; a part sector at its end is not offered. */
  readonly diskLength: number;
  readonly readOnly: boolean;
  readonly queueCount: number;
  /** The most buffers of data of a request. */
  readonly segmentsMax: number;
  /** Bytes: a power of two from 512 on. Requests are multiples of it. */
  readonly logicalBlockSize: number;
  /** Bytes: a power of two from `logicalBlockSize` to 2^7 times that. */
  readonly physicalBlockSize: number;
  /** Bytes below which a discard gives nothing back: the image's cluster size. */
  readonly discardGranularity: number;
}

export function encodeConfiguration(options: ConfigurationOptions): Uint8Array {
  const bytes = new Uint8Array(CONFIG_BYTES);
  const view = new ByteView(bytes);
  const { logicalBlockSize } = options;
  view.setU64le(CAPACITY_OFFSET, Math.floor(options.diskLength / SECTOR_SIZE));
  view.setU32le(12, options.segmentsMax);
  view.setU32le(20, logicalBlockSize);
  view.setU8(24, Math.log2(options.physicalBlockSize / logicalBlockSize));
  // min_io_size counts logical blocks.
  view.setU16le(26, options.physicalBlockSize / logicalBlockSize);
  // There is no writethrough mode to switch to, so that a driver which looks anyway must see a cache to flush.
  view.setU8(32, 1);
  view.setU16le(34, options.queueCount);
  if (!options.readOnly) {
    view.setU32le(36, MAX_SEGMENT_SECTORS);
    view.setU32le(40, 1);
    view.setU32le(44, options.discardGranularity / SECTOR_SIZE);
    view.setU32le(48, MAX_SEGMENT_SECTORS);
    view.setU32le(52, 1);
    view.setU8(56, 1);
  }
  return bytes;
}
