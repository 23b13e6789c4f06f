/** What a device is made of: its options, and the state that they begin with. */
import { BlockError, encodeUtf8, isPowerOfTwo, SECTOR_SIZE } from "@spindle/base";
import type { ThreadTableHandle } from "@spindle/shared-memory";
import { encodeConfiguration } from "./config-space.ts";
import { DEVICE_ID_BYTES } from "./device.ts";
import { type FeatureBits, offeredFeatures } from "./features.ts";
import type { GuestMemoryHandle } from "./guest-memory.ts";
import { ERROR_POLICIES, type ErrorPolicy } from "./io-error.ts";
import { QUEUE_SIZE_LIMIT } from "./queue-layout.ts";
import { CONFIG_START, stateBytes } from "./state-layout.ts";

export interface VirtioBlkOptions {
  readonly memory: GuestMemoryHandle;
  readonly threads: ThreadTableHandle;
  /** Bytes. */
  readonly diskLength: number;
  readonly readOnly?: boolean;
  /** 1 to 1024; 1 when left out. */
  readonly queueCount?: number;
  /** The most entries of a queue: a power of two up to 32768; 256 when left out. */
  readonly queueSizeMax?: number;
  /** Offers packed rings; the driver chooses. Not offered when left out. */
  readonly packed?: boolean;
  /** Offers to give requests back in the order in which they came, also when they end in another. */
  readonly inOrder?: boolean;
  /**
   * The most buffers of data that a request is advised to have; what a queue of `queueSizeMax` entries holds when left
   * out. A chain is no longer than its queue, so less is said where drivers may choose smaller queues.
   */
  readonly segmentsMax?: number;
  /** What GET_ID answers: up to 20 bytes. */
  readonly serial?: string;
  /** Bytes: a power of two from 512 on, which is also what it is when left out. */
  readonly logicalBlockSize?: number;
  /** Bytes: `logicalBlockSize`, or up to 2^7 times as much; 4096 when left out. */
  readonly physicalBlockSize?: number;
  /** Bytes, multiples of `logicalBlockSize`: the least and the best length of a request, as advice to the driver. */
  readonly minIoSize?: number;
  readonly optIoSize?: number;
  /** Bytes: the most of one buffer of a request, as advice to the driver; there is no limit when left out. */
  readonly segmentBytesMax?: number;
  /** Lets the driver switch the write cache; true when left out. Not where its choice is lost with the device's process. */
  readonly configWce?: boolean;
  /** What is done about errors of reads, and of everything else; `report` when left out. */
  readonly rerror?: ErrorPolicy;
  readonly werror?: ErrorPolicy;
  /** Bytes: the image's cluster size; `logicalBlockSize` when left out. */
  readonly discardGranularity?: number;
}

/** A device, fit to be posted to other threads. */
export interface VirtioBlkHandle {
  readonly state: SharedArrayBuffer;
  readonly memory: GuestMemoryHandle;
  readonly threads: ThreadTableHandle;
  readonly queueCount: number;
  readonly queueSizeMax: number;
  readonly offered: FeatureBits;
  readonly logicalBlockSize: number;
  readonly serial: Uint8Array;
  readonly rerror: ErrorPolicy;
  readonly werror: ErrorPolicy;
}

/**
 * Makes a device in its reset state.
 * @throws {BlockError} EINVAL when an option is out of its range.
 */
export function createVirtioBlk(options: VirtioBlkOptions): VirtioBlkHandle {
  const { queueCount = 1, queueSizeMax = 256, logicalBlockSize = SECTOR_SIZE, readOnly = false } = options;
  const physicalBlockSize = options.physicalBlockSize ?? Math.max(4096, logicalBlockSize);
  const discardGranularity = options.discardGranularity ?? logicalBlockSize;
  // Two descriptors of a chain are the header and the status.
  const segmentsMax = options.segmentsMax ?? Math.max(1, queueSizeMax - 2);
  const { segmentBytesMax = 0, minIoSize = physicalBlockSize, optIoSize = 0 } = options;
  const { rerror = "report", werror = "report" } = options;
  const serial = encodeUtf8(options.serial ?? "");
  const ratio = physicalBlockSize / logicalBlockSize;
  requireOption(Number.isInteger(queueCount) && queueCount >= 1 && queueCount <= 1024, "queueCount");
  requireOption(isPowerOfTwo(queueSizeMax) && queueSizeMax <= QUEUE_SIZE_LIMIT, "queueSizeMax");
  requireOption(Number.isInteger(segmentsMax) && segmentsMax >= 1 && segmentsMax <= queueSizeMax, "segmentsMax");
  requireOption(isPowerOfTwo(logicalBlockSize) && logicalBlockSize >= SECTOR_SIZE, "logicalBlockSize");
  requireOption(isPowerOfTwo(ratio) && ratio <= 2 ** 7, "physicalBlockSize");
  requireOption(isPowerOfTwo(discardGranularity) && discardGranularity >= logicalBlockSize, "discardGranularity");
  requireOption(serial.length <= DEVICE_ID_BYTES, "serial");
  requireOption(isBlocks(minIoSize, logicalBlockSize, 0xffff), "minIoSize");
  requireOption(isBlocks(optIoSize, logicalBlockSize, 0xffff_ffff), "optIoSize");
  requireOption(isBlocks(segmentBytesMax, logicalBlockSize, 0xffff_ffff / logicalBlockSize), "segmentBytesMax");
  requireOption(ERROR_POLICIES.includes(rerror) && rerror !== "enospc", "rerror");
  requireOption(ERROR_POLICIES.includes(werror), "werror");
  const state = new SharedArrayBuffer(stateBytes(queueCount));
  const configuration = encodeConfiguration({
    diskLength: options.diskLength,
    readOnly,
    queueCount,
    segmentsMax,
    logicalBlockSize,
    physicalBlockSize,
    minIoSize,
    optIoSize,
    segmentBytesMax,
    discardGranularity,
  });
  new Uint8Array(state, CONFIG_START).set(configuration);
  const { packed = false, inOrder = false, configWce = true } = options;
  const offered = offeredFeatures({ readOnly, queueCount, packed, inOrder, configWce, sizeMax: segmentBytesMax > 0 });
  const { memory, threads } = options;
  return { state, memory, threads, queueCount, queueSizeMax, offered, logicalBlockSize, serial, rerror, werror };
}

/** Whether a length is whole blocks, at most `most` of them. */
function isBlocks(length: number, blockSize: number, most: number): boolean {
  return Number.isInteger(length / blockSize) && length >= 0 && length / blockSize <= most;
}

function requireOption(valid: boolean, name: string): void {
  if (!valid) throw new BlockError("EINVAL", `virtio-blk option '${name}' is out of range`);
}
