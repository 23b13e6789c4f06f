/**
 * The state of a device in shared memory: device status (virtio 1.2 §2.1), negotiated features, interrupts, the
 * configuration space, and the queues. The transport may run on one thread, each queue's worker on another, and the
 * guest on a third: what one does that matters to another ends with a ring of that thread's doorbell.
 */
import { BlockError, ByteView, encodeUtf8, isPowerOfTwo, SECTOR_SIZE } from "@spindle/base";
import { ThreadTable, type ThreadTableHandle } from "@spindle/shared-memory";
import { CAPACITY_OFFSET, CONFIG_BYTES, encodeConfiguration } from "./config-space.ts";
import { DEVICE_ID_BYTES } from "./device.ts";
import { acceptableFeatures, type FeatureBits, offeredFeatures } from "./features.ts";
import type { GuestMemoryHandle } from "./guest-memory.ts";
import type { QueueFault } from "./queue-fault.ts";
import { QUEUE_SIZE_LIMIT } from "./queue-layout.ts";
import { decodeThread, encodeThread, QUEUE_STATE_WORDS, QueueState } from "./queue-state.ts";

export const VIRTIO_CONFIG_S_ACKNOWLEDGE = 1;
export const VIRTIO_CONFIG_S_DRIVER = 2;
export const VIRTIO_CONFIG_S_DRIVER_OK = 4;
export const VIRTIO_CONFIG_S_FEATURES_OK = 8;
export const VIRTIO_CONFIG_S_NEEDS_RESET = 64;
const VIRTIO_CONFIG_S_FAILED = 128;

/** What a driver may set; the device alone sets NEEDS_RESET. */
const DRIVER_STATUS_BITS =
  VIRTIO_CONFIG_S_ACKNOWLEDGE |
  VIRTIO_CONFIG_S_DRIVER |
  VIRTIO_CONFIG_S_DRIVER_OK |
  VIRTIO_CONFIG_S_FEATURES_OK |
  VIRTIO_CONFIG_S_FAILED;

/** Bits of the interrupt status (virtio 1.2 §4.2.2). */
const VIRTIO_MMIO_INT_VRING = 1;
const VIRTIO_MMIO_INT_CONFIG = 2;

const STATUS = 0;
const INTERRUPT_STATUS = 1;
const FEATURES_LOW = 2;
const FEATURES_HIGH = 3;
const CONFIG_GENERATION = 4;
const CONFIG_THREAD = 5;
const RESETTING = 6;
const GLOBAL_WORDS = 16;
/** The configuration space stands twice: readers use one copy while the other is changed. */
const CONFIG_COPY_BYTES = 64;
const QUEUES_WORD = GLOBAL_WORDS + (2 * CONFIG_COPY_BYTES) / 4;

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
  const serial = encodeUtf8(options.serial ?? "");
  const ratio = physicalBlockSize / logicalBlockSize;
  requireOption(Number.isInteger(queueCount) && queueCount >= 1 && queueCount <= 1024, "queueCount");
  requireOption(isPowerOfTwo(queueSizeMax) && queueSizeMax <= QUEUE_SIZE_LIMIT, "queueSizeMax");
  requireOption(Number.isInteger(segmentsMax) && segmentsMax >= 1 && segmentsMax <= queueSizeMax, "segmentsMax");
  requireOption(isPowerOfTwo(logicalBlockSize) && logicalBlockSize >= SECTOR_SIZE, "logicalBlockSize");
  requireOption(isPowerOfTwo(ratio) && ratio <= 2 ** 7, "physicalBlockSize");
  requireOption(isPowerOfTwo(discardGranularity) && discardGranularity >= logicalBlockSize, "discardGranularity");
  requireOption(serial.length <= DEVICE_ID_BYTES, "serial");
  const state = new SharedArrayBuffer(4 * (QUEUES_WORD + queueCount * QUEUE_STATE_WORDS));
  const configuration = encodeConfiguration({
    diskLength: options.diskLength,
    readOnly,
    queueCount,
    segmentsMax,
    logicalBlockSize,
    physicalBlockSize,
    discardGranularity,
  });
  new Uint8Array(state, GLOBAL_WORDS * 4).set(configuration);
  const { packed = false, inOrder = false } = options;
  const offered = offeredFeatures({ readOnly, queueCount, packed, inOrder });
  const { memory, threads } = options;
  return { state, memory, threads, queueCount, queueSizeMax, offered, logicalBlockSize, serial };
}

function requireOption(valid: boolean, name: string): void {
  if (!valid) throw new BlockError("EINVAL", `virtio-blk option '${name}' is out of range`);
}

export class DeviceState {
  readonly handle: VirtioBlkHandle;
  readonly queues: readonly QueueState[];
  readonly #words: Uint32Array;
  readonly #threads: ThreadTable;

  constructor(handle: VirtioBlkHandle) {
    this.handle = handle;
    this.#words = new Uint32Array(handle.state);
    this.#threads = new ThreadTable(handle.threads);
    this.queues = Array.from({ length: handle.queueCount }, (_, index) => {
      const start = QUEUES_WORD + index * QUEUE_STATE_WORDS;
      return new QueueState(this.#words.subarray(start, start + QUEUE_STATE_WORDS));
    });
  }

  /** The device status. Not 0 before a reset is over. */
  get status(): number {
    return Atomics.load(this.#words, STATUS);
  }

  get driverOk(): boolean {
    return (this.status & VIRTIO_CONFIG_S_DRIVER_OK) !== 0;
  }

  get driverFeatures(): FeatureBits {
    return { low: Atomics.load(this.#words, FEATURES_LOW), high: Atomics.load(this.#words, FEATURES_HIGH) };
  }

  get interruptStatus(): number {
    return Atomics.load(this.#words, INTERRUPT_STATUS);
  }

  get resetting(): boolean {
    return Atomics.load(this.#words, RESETTING) !== 0;
  }

  get configGeneration(): number {
    return Atomics.load(this.#words, CONFIG_GENERATION);
  }

  /** The thread to ring when the configuration changes. */
  set configThread(thread: number | undefined) {
    Atomics.store(this.#words, CONFIG_THREAD, encodeThread(thread));
  }

  /** Accepts features, in halves, until the driver has fixed them with FEATURES_OK. */
  setDriverFeatures(half: "low" | "high", bits: number): void {
    if ((this.status & VIRTIO_CONFIG_S_FEATURES_OK) !== 0) return;
    Atomics.store(this.#words, half === "low" ? FEATURES_LOW : FEATURES_HIGH, bits);
  }

  /**
   * Adds the bits that a driver wrote, as far as it may set them: FEATURES_OK stays clear when the features are not
   * acceptable, and DRIVER_OK before FEATURES_OK.
   */
  addStatus(bits: number): void {
    for (;;) {
      const before = this.status;
      let after = before | (bits & DRIVER_STATUS_BITS);
      const fixing = (after & ~before & VIRTIO_CONFIG_S_FEATURES_OK) !== 0;
      if (fixing && !acceptableFeatures(this.driverFeatures, this.handle.offered))
        after &= ~VIRTIO_CONFIG_S_FEATURES_OK;
      if ((after & VIRTIO_CONFIG_S_FEATURES_OK) === 0) after &= ~VIRTIO_CONFIG_S_DRIVER_OK;
      if (Atomics.compareExchange(this.#words, STATUS, before, after) !== before) continue;
      // Buffers may have been made available before, and nobody need kick for them again.
      if ((after & ~before & VIRTIO_CONFIG_S_DRIVER_OK) !== 0) this.wakeServers();
      return;
    }
  }

  /**
   * Takes the features that a driver has negotiated with a transport in another process, and lets the queues run: that
   * transport keeps the device status. No reset is under way.
   * @returns false, and changes nothing, when they are not all offered.
   */
  adoptFeatures({ low, high }: FeatureBits): boolean {
    const { offered } = this.handle;
    if ((low & ~offered.low) !== 0 || (high & ~offered.high) !== 0) return false;
    Atomics.store(this.#words, FEATURES_LOW, low);
    Atomics.store(this.#words, FEATURES_HIGH, high);
    Atomics.store(this.#words, STATUS, VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
    return true;
  }

  /** Stops all queues. The reset is over when `finishReset` says so. */
  beginReset(): void {
    Atomics.store(this.#words, RESETTING, 1);
    for (const queue of this.queues) queue.disable();
    this.wakeServers();
    this.finishReset();
  }

  /** Ends a reset as soon as nothing is in flight any more. @returns whether no reset is under way. */
  finishReset(): boolean {
    if (!this.resetting) return true;
    if (!this.queues.every((queue) => queue.stopped)) return false;
    for (const queue of this.queues) queue.clear();
    Atomics.store(this.#words, FEATURES_LOW, 0);
    Atomics.store(this.#words, FEATURES_HIGH, 0);
    Atomics.store(this.#words, INTERRUPT_STATUS, 0);
    Atomics.store(this.#words, RESETTING, 0);
    Atomics.store(this.#words, STATUS, 0);
    return true;
  }

  /** Wakes whoever serves a queue. */
  kick(queue: QueueState): void {
    const server = queue.server;
    if (server !== undefined) this.#threads.ring(server);
  }

  wakeServers(): void {
    for (const queue of this.queues) this.kick(queue);
  }

  /** Tells the guest that used buffers are there. */
  interrupt(queue: QueueState): void {
    Atomics.or(this.#words, INTERRUPT_STATUS, VIRTIO_MMIO_INT_VRING);
    this.wakeDriver(queue);
  }

  /** Rings the thread that waits for a queue's interrupts. */
  wakeDriver(queue: QueueState): void {
    const thread = queue.interruptThread;
    if (thread !== undefined) this.#threads.ring(thread);
  }

  acknowledgeInterrupt(bits: number): void {
    Atomics.and(this.#words, INTERRUPT_STATUS, ~bits);
  }

  /** Latches a queue as broken and asks the driver for a reset (virtio 1.2 §2.1.2). The other queues go on. */
  latch(queue: QueueState, fault: QueueFault): void {
    queue.setFault(fault);
    Atomics.or(this.#words, STATUS, VIRTIO_CONFIG_S_NEEDS_RESET);
    this.#interruptConfiguration();
    this.wakeDriver(queue);
  }

  /** Announces another length of the disk, in bytes. One thread calls this. */
  setDiskLength(length: number): void {
    const generation = this.configGeneration;
    const next = this.#configurationCopy(generation + 1);
    next.set(this.#configurationCopy(generation));
    new ByteView(next).setU64le(CAPACITY_OFFSET, Math.floor(length / SECTOR_SIZE));
    Atomics.store(this.#words, CONFIG_GENERATION, generation + 1);
    if (this.driverOk) this.#interruptConfiguration();
  }

  /** Reads the configuration space from any offset; bytes that it does not have are 0. */
  readConfiguration(offset: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    const copy = this.#configurationCopy(this.configGeneration);
    for (let index = 0; index < length && offset + index < CONFIG_BYTES; index++)
      bytes[index] = copy[offset + index] as number;
    return bytes;
  }

  #configurationCopy(generation: number): Uint8Array {
    const start = GLOBAL_WORDS * 4 + (generation % 2) * CONFIG_COPY_BYTES;
    return new Uint8Array(this.handle.state, start, CONFIG_COPY_BYTES);
  }

  #interruptConfiguration(): void {
    Atomics.or(this.#words, INTERRUPT_STATUS, VIRTIO_MMIO_INT_CONFIG);
    const thread = decodeThread(Atomics.load(this.#words, CONFIG_THREAD));
    if (thread !== undefined) this.#threads.ring(thread);
  }
}
