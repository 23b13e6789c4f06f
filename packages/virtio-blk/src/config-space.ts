/** The device configuration space, struct virtio_blk_config (virtio 1.2 §5.2.4), as bytes. */
import { ByteView, SECTOR_SIZE } from "@spindle/base";

/** Bytes up to the last field that this device has, write_zeroes_may_unmap with its padding. */
export const CONFIG_BYTES = 60;

/** The offset of the capacity, in sectors: the first field. */
const CAPACITY_OFFSET = 0;

/**
 * The most sectors of one discard or write zeroes segment, QEMU's: what fits a signed 32-bit count of bytes,
 * (2^31 - 1) / 512.
 */
export const MAX_SEGMENT_SECTORS = 4_194_303;

/** The most segments of one discard or write zeroes request: what Linux makes use of. */
export const MAX_SEGMENTS = 256;

/** The offset of `writeback`, the one field that a driver may write. */
export const WRITEBACK_OFFSET = 32;

/** The geometry that a disk without cylinders is given everywhere. */
const HEADS = 16;
const SECTORS_PER_TRACK = 63;
const CYLINDERS_MAX = 16_383;

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
  /** Bytes, multiples of `logicalBlockSize`: the advised least and best length of a request; 0 says nothing. */
  readonly minIoSize: number;
  readonly optIoSize: number;
  /** Bytes: the most of one buffer of a request; 0 when there is no such limit. */
  readonly segmentBytesMax: number;
  /** Bytes below which a discard gives nothing back: the image's cluster size. */
  readonly discardGranularity: number;
}

export function encodeConfiguration(options: ConfigurationOptions): Uint8Array {
  const bytes = new Uint8Array(CONFIG_BYTES);
  const view = new ByteView(bytes);
  const { logicalBlockSize } = options;
  setCapacity(view, options.diskLength);
  view.setU32le(8, options.segmentBytesMax);
  view.setU32le(12, options.segmentsMax);
  view.setU32le(20, logicalBlockSize);
  view.setU8(24, Math.log2(options.physicalBlockSize / logicalBlockSize));
  // Both count logical blocks.
  view.setU16le(26, options.minIoSize / logicalBlockSize);
  view.setU32le(28, options.optIoSize / logicalBlockSize);
  // `writeback` is not a constant: see DeviceState.
  view.setU16le(34, options.queueCount);
  if (!options.readOnly) {
    view.setU32le(36, MAX_SEGMENT_SECTORS);
    view.setU32le(40, MAX_SEGMENTS);
    view.setU32le(44, options.discardGranularity / SECTOR_SIZE);
    view.setU32le(48, MAX_SEGMENT_SECTORS);
    view.setU32le(52, MAX_SEGMENTS);
    view.setU8(56, 1);
  }
  return bytes;
}

/** Sets the capacity and the geometry that goes with it. @param diskLength bytes */
export function setCapacity(view: ByteView, diskLength: number): void {
  const sectors = Math.floor(diskLength / SECTOR_SIZE);
  view.setU64le(CAPACITY_OFFSET, sectors);
  view.setU16le(16, Math.min(CYLINDERS_MAX, Math.floor(sectors / (HEADS * SECTORS_PER_TRACK))));
  view.setU8(18, HEADS);
  view.setU8(19, SECTORS_PER_TRACK);
}
