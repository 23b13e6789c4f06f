/**
 * The state of a device in shared memory: device status (virtio 1.2 §2.1), negotiated features, interrupts, the
 * configuration space, and the queues. The transport may run on one thread, each queue's worker on another, and the
 * guest on a third: what one does that matters to another ends with a ring of that thread's doorbell.
 */
import { ByteView } from "@spindle/base";
import { ThreadTable } from "@spindle/shared-memory";
import { CacheChoice, isWriteback } from "./cache-mode.ts";
import { CONFIG_BYTES, setCapacity, WRITEBACK_OFFSET } from "./config-space.ts";
import type { VirtioBlkHandle } from "./create-device.ts";
import { acceptableFeatures, type FeatureBits, VIRTIO_BLK_F_CONFIG_WCE } from "./features.ts";
import { type IoErrorReport, IoErrorRing } from "./io-error.ts";
import type { QueueFault } from "./queue-fault.ts";
import { decodeThread, encodeThread, QUEUE_STATE_WORDS, QueueState } from "./queue-state.ts";
import { CONFIG_COPY_BYTES, CONFIG_START, errorRingStart, QUEUES_WORD } from "./state-layout.ts";

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

/** Bits of the interrupt status, which are the same for mmio and PCI (virtio 1.2 §4.2.2, §4.1.4.5). */
const INTERRUPT_QUEUE = 1;
const INTERRUPT_CONFIG = 2;

const STATUS = 0;
const INTERRUPT_STATUS = 1;
const FEATURES_LOW = 2;
const FEATURES_HIGH = 3;
const CONFIG_GENERATION = 4;
const CONFIG_THREAD = 5;
const RESETTING = 6;
const CACHE_CHOICE = 7;
/** 1 while requests wait for the host to resume the device. */
const STOPPED = 8;
const ERROR_THREAD = 9;
/** 1 when a change of the configuration waits to be told with an interrupt of its own. */
const CONFIG_PENDING = 10;

export class DeviceState {
  readonly handle: VirtioBlkHandle;
  readonly queues: readonly QueueState[];
  readonly #words: Uint32Array;
  readonly #threads: ThreadTable;
  readonly #errors: readonly IoErrorRing[];

  /** @param threads the table of the device's threads, where it can wake those that sleep in descriptors */
  constructor(handle: VirtioBlkHandle, threads: ThreadTable = new ThreadTable(handle.threads)) {
    this.handle = handle;
    this.#words = new Uint32Array(handle.state);
    this.#threads = threads;
    this.queues = Array.from({ length: handle.queueCount }, (_, index) => {
      const start = QUEUES_WORD + index * QUEUE_STATE_WORDS;
      return new QueueState(this.#words.subarray(start, start + QUEUE_STATE_WORDS));
    });
    const errors = errorRingStart(handle.queueCount);
    this.#errors = this.queues.map((_, index) => new IoErrorRing(handle.state, errors + index * IoErrorRing.BYTES));
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

  /** Accepts features, in halves, until the driver has fixed them. */
  setDriverFeatures(half: "low" | "high", bits: number): void {
    if (this.#featuresFixed) return;
    Atomics.store(this.#words, half === "low" ? FEATURES_LOW : FEATURES_HIGH, bits);
  }

  /**
   * Adds the bits that a driver wrote, as far as it may set them: FEATURES_OK stays clear when the features are not
   * acceptable, and DRIVER_OK before FEATURES_OK. A legacy driver has no FEATURES_OK.
   */
  addStatus(bits: number, legacy = false): void {
    const settable = legacy ? DRIVER_STATUS_BITS & ~VIRTIO_CONFIG_S_FEATURES_OK : DRIVER_STATUS_BITS;
    for (;;) {
      const before = this.status;
      let after = before | (bits & settable);
      const fixing = (after & ~before & VIRTIO_CONFIG_S_FEATURES_OK) !== 0;
      if (fixing && !acceptableFeatures(this.driverFeatures, this.handle.offered))
        after &= ~VIRTIO_CONFIG_S_FEATURES_OK;
      if (!legacy && (after & VIRTIO_CONFIG_S_FEATURES_OK) === 0) after &= ~VIRTIO_CONFIG_S_DRIVER_OK;
      if (Atomics.compareExchange(this.#words, STATUS, before, after) !== before) continue;
      // What a driver wrote before it had negotiated the right to is forgotten.
      if ((after & ~before & VIRTIO_CONFIG_S_FEATURES_OK) !== 0)
        Atomics.store(this.#words, CACHE_CHOICE, CacheChoice.none);
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
    Atomics.store(this.#words, CONFIG_PENDING, 0);
    Atomics.store(this.#words, CACHE_CHOICE, CacheChoice.none);
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
    queue.interrupt();
    Atomics.or(this.#words, INTERRUPT_STATUS, INTERRUPT_QUEUE);
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

  /** The interrupt status, which is 0 afterwards. */
  takeInterruptStatus(): number {
    return Atomics.exchange(this.#words, INTERRUPT_STATUS, 0);
  }

  /** Whether the configuration changed since the last call. For transports with an interrupt for that. */
  takeConfigInterrupt(): boolean {
    return Atomics.exchange(this.#words, CONFIG_PENDING, 0) !== 0;
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
    setCapacity(new ByteView(next), length);
    Atomics.store(this.#words, CONFIG_GENERATION, generation + 1);
    if (this.driverOk) this.#interruptConfiguration();
  }

  /** Reads the configuration space from any offset; bytes that it does not have are 0. */
  readConfiguration(offset: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    const copy = this.#configurationCopy(this.configGeneration);
    for (let index = 0; index < length && offset + index < CONFIG_BYTES; index++)
      bytes[index] = copy[offset + index] as number;
    const writeback = WRITEBACK_OFFSET - offset;
    if (writeback >= 0 && writeback < length) bytes[writeback] = this.writeback ? 1 : 0;
    return bytes;
  }

  /** Writes to the configuration space from any offset. Of its bytes a driver may change `writeback`. */
  writeConfiguration(offset: number, bytes: Uint8Array): void {
    const value = bytes[WRITEBACK_OFFSET - offset];
    if (value === undefined) return;
    const negotiated = (this.driverFeatures.low & VIRTIO_BLK_F_CONFIG_WCE) !== 0;
    if (this.#featuresFixed && !negotiated) return;
    Atomics.store(this.#words, CACHE_CHOICE, value === 0 ? CacheChoice.writethrough : CacheChoice.writeback);
  }

  /** Whether completed writes may still be in a volatile cache. */
  get writeback(): boolean {
    return isWriteback(this.driverFeatures, this.#featuresFixed, this.cacheChoice);
  }

  get cacheChoice(): CacheChoice {
    return Atomics.load(this.#words, CACHE_CHOICE) as CacheChoice;
  }

  /** The thread to ring for errors of the disk. */
  set errorThread(thread: number | undefined) {
    Atomics.store(this.#words, ERROR_THREAD, encodeThread(thread));
  }

  /** Whether the host or the error policy has stopped the device: nothing new is begun, and what failed waits to be done again. */
  get stopped(): boolean {
    return Atomics.load(this.#words, STOPPED) !== 0;
  }

  /** Holds the requests back that are not begun yet. Called by any thread. */
  stop(): void {
    Atomics.store(this.#words, STOPPED, 1);
  }

  /** Lets the device go on, as after the host has seen to an error. Called by any thread. */
  resume(): void {
    Atomics.store(this.#words, STOPPED, 0);
    this.wakeServers();
  }

  /** Notes an error of the disk for the host. Called by the thread that serves the queue. */
  ioFailed(queue: QueueState, report: Omit<IoErrorReport, "queue" | "missed" | "nospace">): void {
    if (report.action === "stop") this.stop();
    this.#errors[this.queues.indexOf(queue)]?.push(report);
    const thread = decodeThread(Atomics.load(this.#words, ERROR_THREAD));
    if (thread !== undefined) this.#threads.ring(thread);
  }

  /** Whether there are errors of the disk to take. */
  get hasIoErrors(): boolean {
    return this.#errors.some((ring) => !ring.empty);
  }

  /** Takes the errors of the disk that were reported since the last call. One thread calls this. */
  takeIoErrors(): IoErrorReport[] {
    const reports: IoErrorReport[] = [];
    this.#errors.forEach((ring, queue) => {
      for (let report = ring.pop(queue); report !== undefined; report = ring.pop(queue)) reports.push(report);
    });
    return reports;
  }

  /** Whether the driver can no longer change its features. Legacy drivers end with DRIVER_OK. */
  get #featuresFixed(): boolean {
    return (this.status & (VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK)) !== 0;
  }

  #configurationCopy(generation: number): Uint8Array {
    const start = CONFIG_START + (generation % 2) * CONFIG_COPY_BYTES;
    return new Uint8Array(this.handle.state, start, CONFIG_COPY_BYTES);
  }

  #interruptConfiguration(): void {
    Atomics.store(this.#words, CONFIG_PENDING, 1);
    Atomics.or(this.#words, INTERRUPT_STATUS, INTERRUPT_CONFIG);
    const thread = decodeThread(Atomics.load(this.#words, CONFIG_THREAD));
    if (thread !== undefined) this.#threads.ring(thread);
  }
}
