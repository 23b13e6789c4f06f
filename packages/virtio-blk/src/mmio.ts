/**
 * The virtio-mmio transport, version 2 (virtio 1.2 §4.2): what reads and writes of the registers do to the device state.
 * An emulator calls it from its memory-access hook; it never blocks, and no access of a guest makes it throw.
 */
import { type Co, until } from "@spindle/base";
import type { VirtioBlkHandle } from "./create-device.ts";
import { DeviceState } from "./device-state.ts";
import { GuestMemory } from "./guest-memory.ts";
import { makeReady, stopQueue } from "./queue-setup.ts";
import { type QueueState, QueueWord } from "./queue-state.ts";
import { isAccess, littleEndian, littleEndianValue } from "./register-bytes.ts";
import * as mmio from "./registers.ts";

/** "SPND": who made the device; drivers use it for nothing. */
export const VENDOR_ID = 0x444e_5053;

const QUEUE_REGISTERS: ReadonlyMap<number, QueueWord> = new Map<number, QueueWord>([
  [mmio.VIRTIO_MMIO_QUEUE_NUM, QueueWord.size],
  [mmio.VIRTIO_MMIO_QUEUE_DESC_LOW, QueueWord.descriptorLow],
  [mmio.VIRTIO_MMIO_QUEUE_DESC_HIGH, QueueWord.descriptorHigh],
  [mmio.VIRTIO_MMIO_QUEUE_DRIVER_LOW, QueueWord.driverLow],
  [mmio.VIRTIO_MMIO_QUEUE_DRIVER_HIGH, QueueWord.driverHigh],
  [mmio.VIRTIO_MMIO_QUEUE_DEVICE_LOW, QueueWord.deviceLow],
  [mmio.VIRTIO_MMIO_QUEUE_DEVICE_HIGH, QueueWord.deviceHigh],
]);

export class MmioTransport implements mmio.Registers {
  readonly #state: DeviceState;
  readonly #memory: GuestMemory;
  #deviceFeaturesSelected = 0;
  #driverFeaturesSelected = 0;
  #queueSelected = 0;

  /** One thread has the transport; kicks alone (`QueueNotify`) may come through transports on several threads. */
  constructor(handle: VirtioBlkHandle) {
    this.#state = new DeviceState(handle);
    this.#memory = new GuestMemory(handle.memory);
  }

  read(offset: number, width: 1 | 2 | 4 = 4): number {
    if (!isAccess(offset, width)) return 0;
    if (offset >= mmio.VIRTIO_MMIO_CONFIG)
      return littleEndianValue(this.#state.readConfiguration(offset - mmio.VIRTIO_MMIO_CONFIG, width));
    if (width !== 4) return 0;
    switch (offset) {
      case mmio.VIRTIO_MMIO_MAGIC_VALUE:
        return mmio.VIRTIO_MMIO_MAGIC;
      case mmio.VIRTIO_MMIO_VERSION:
        return 2;
      case mmio.VIRTIO_MMIO_DEVICE_ID:
        return mmio.VIRTIO_ID_BLOCK;
      case mmio.VIRTIO_MMIO_VENDOR_ID:
        return VENDOR_ID;
      case mmio.VIRTIO_MMIO_DEVICE_FEATURES:
        return this.#deviceFeatures();
      case mmio.VIRTIO_MMIO_QUEUE_NUM_MAX:
        return this.#queue() === undefined ? 0 : this.#state.handle.queueSizeMax;
      case mmio.VIRTIO_MMIO_QUEUE_READY:
        return (this.#queue()?.stopped ?? true) ? 0 : 1;
      case mmio.VIRTIO_MMIO_INTERRUPT_STATUS:
        return this.#state.interruptStatus;
      case mmio.VIRTIO_MMIO_STATUS:
        this.#state.finishReset();
        return this.#state.status;
      case mmio.VIRTIO_MMIO_SHM_LEN_LOW:
      case mmio.VIRTIO_MMIO_SHM_LEN_HIGH:
      case mmio.VIRTIO_MMIO_SHM_BASE_LOW:
      case mmio.VIRTIO_MMIO_SHM_BASE_HIGH:
        // All ones: there is no such shared memory region.
        return 0xffff_ffff;
      case mmio.VIRTIO_MMIO_CONFIG_GENERATION:
        return this.#state.configGeneration;
      default:
        return 0;
    }
  }

  write(offset: number, value: number, width: 1 | 2 | 4 = 4): void {
    if (!isAccess(offset, width)) return;
    if (offset >= mmio.VIRTIO_MMIO_CONFIG) {
      this.#state.writeConfiguration(offset - mmio.VIRTIO_MMIO_CONFIG, littleEndian(value, width));
      return;
    }
    if (width !== 4) return;
    const word = value >>> 0;
    if (offset === mmio.VIRTIO_MMIO_QUEUE_NOTIFY) {
      const kicked = this.#state.queues[word];
      if (kicked !== undefined) this.#state.kick(kicked);
      return;
    }
    // A driver waits until the status reads 0 before it goes on.
    if (!this.#state.finishReset()) return;
    const queueWord = QUEUE_REGISTERS.get(offset);
    if (queueWord !== undefined) {
      const queue = this.#queue();
      if (queue?.stopped) queue.setWord(queueWord, word);
      return;
    }
    this.#writeControl(offset, word);
  }

  /**
   * Waits until a reset is over and the status reads 0. For front ends whose guests do not look again: they run it
   * before the guest goes on. The thread is rung when the last queue stops if it gets the queues' interrupts.
   */
  *resetComplete(): Co<void> {
    yield* until(() => this.#state.finishReset());
  }

  #writeControl(offset: number, word: number): void {
    switch (offset) {
      case mmio.VIRTIO_MMIO_DEVICE_FEATURES_SEL:
        this.#deviceFeaturesSelected = word;
        break;
      case mmio.VIRTIO_MMIO_DRIVER_FEATURES_SEL:
        this.#driverFeaturesSelected = word;
        break;
      case mmio.VIRTIO_MMIO_DRIVER_FEATURES:
        if (this.#driverFeaturesSelected <= 1)
          this.#state.setDriverFeatures(this.#driverFeaturesSelected === 0 ? "low" : "high", word);
        break;
      case mmio.VIRTIO_MMIO_QUEUE_SEL:
        this.#queueSelected = word;
        break;
      case mmio.VIRTIO_MMIO_QUEUE_READY:
        this.#setReady(word);
        break;
      case mmio.VIRTIO_MMIO_INTERRUPT_ACK:
        this.#state.acknowledgeInterrupt(word);
        break;
      case mmio.VIRTIO_MMIO_STATUS:
        if (word === 0) this.#state.beginReset();
        else this.#state.addStatus(word);
        break;
      default:
        break;
    }
  }

  #queue(): QueueState | undefined {
    return this.#state.queues[this.#queueSelected];
  }

  #deviceFeatures(): number {
    if (this.#deviceFeaturesSelected > 1) return 0;
    const { low, high } = this.#state.handle.offered;
    return this.#deviceFeaturesSelected === 0 ? low : high;
  }

  /** A queue whose layout is not valid does not become ready; the driver sees it when it reads the register back. */
  #setReady(word: number): void {
    const queue = this.#queue();
    if (queue === undefined) return;
    if (word === 0) stopQueue(this.#state, queue);
    else makeReady(this.#state, this.#memory, queue);
  }
}
