/**
 * What both versions of the virtio-mmio transport have (virtio 1.2 §4.2): the identity, the configuration space, selecting
 * features and queues, kicks, interrupts and the status. An emulator calls it from its memory-access hook; it never blocks,
 * and no access of a guest makes it throw.
 */
import { type Co, until } from "@spindle/base";
import type { VirtioBlkHandle } from "./create-device.ts";
import { DeviceState } from "./device-state.ts";
import { GuestMemory } from "./guest-memory.ts";
import type { QueueState } from "./queue-state.ts";
import { type AccessWidth, isAccess, littleEndian, littleEndianValue } from "./register-bytes.ts";
import * as mmio from "./registers.ts";

/** "SPND": who made the device; drivers use it for nothing. */
const VENDOR_ID = 0x444e_5053;

export abstract class MmioRegisters implements mmio.Registers {
  protected readonly state: DeviceState;
  protected readonly memory: GuestMemory;
  protected deviceFeaturesSelected = 0;
  protected driverFeaturesSelected = 0;
  protected queueSelected = 0;
  /** What the version register reads. */
  protected abstract readonly version: number;

  /** One thread has the transport; kicks alone (`QueueNotify`) may come through transports on several threads. */
  constructor(handle: VirtioBlkHandle) {
    this.state = new DeviceState(handle);
    this.memory = new GuestMemory(handle.memory);
  }

  /** A register that only this version has, or that means something else in it; 0 for what is none. */
  protected abstract readOwn(offset: number): number;
  /** The same for writes; no reset is under way. */
  protected abstract writeOwn(offset: number, word: number): void;

  read(offset: number, width: AccessWidth = 4): number {
    if (!isAccess(offset, width)) return 0;
    if (offset >= mmio.VIRTIO_MMIO_CONFIG)
      return littleEndianValue(this.state.readConfiguration(offset - mmio.VIRTIO_MMIO_CONFIG, width));
    if (width !== 4) return 0;
    switch (offset) {
      case mmio.VIRTIO_MMIO_MAGIC_VALUE:
        return mmio.VIRTIO_MMIO_MAGIC;
      case mmio.VIRTIO_MMIO_VERSION:
        return this.version;
      case mmio.VIRTIO_MMIO_DEVICE_ID:
        return mmio.VIRTIO_ID_BLOCK;
      case mmio.VIRTIO_MMIO_VENDOR_ID:
        return VENDOR_ID;
      case mmio.VIRTIO_MMIO_INTERRUPT_STATUS:
        return this.state.interruptStatus;
      case mmio.VIRTIO_MMIO_STATUS:
        this.state.finishReset();
        return this.state.status;
      default:
        return this.readOwn(offset);
    }
  }

  write(offset: number, value: number, width: AccessWidth = 4): void {
    if (!isAccess(offset, width)) return;
    if (offset >= mmio.VIRTIO_MMIO_CONFIG) {
      this.state.writeConfiguration(offset - mmio.VIRTIO_MMIO_CONFIG, littleEndian(value, width));
      return;
    }
    if (width !== 4) return;
    const word = value >>> 0;
    if (offset === mmio.VIRTIO_MMIO_QUEUE_NOTIFY) {
      const kicked = this.state.queues[word];
      if (kicked !== undefined) this.state.kick(kicked);
      // A driver waits until the status reads 0 before it goes on.
    } else if (this.state.finishReset()) this.#writeControl(offset, word);
  }

  /**
   * Waits until a reset is over and the status reads 0. For front ends whose guests do not look again: they run it
   * before the guest goes on. The thread is rung when the last queue stops if it gets the queues' interrupts.
   */
  *resetComplete(): Co<void> {
    yield* until(() => this.state.finishReset());
  }

  /** The queue that the driver has selected; undefined when there is none. */
  protected get queue(): QueueState | undefined {
    return this.state.queues[this.queueSelected];
  }

  #writeControl(offset: number, word: number): void {
    switch (offset) {
      case mmio.VIRTIO_MMIO_DEVICE_FEATURES_SEL:
        this.deviceFeaturesSelected = word;
        break;
      case mmio.VIRTIO_MMIO_DRIVER_FEATURES_SEL:
        this.driverFeaturesSelected = word;
        break;
      case mmio.VIRTIO_MMIO_QUEUE_SEL:
        this.queueSelected = word;
        break;
      case mmio.VIRTIO_MMIO_INTERRUPT_ACK:
        this.state.acknowledgeInterrupt(word);
        break;
      default:
        this.writeOwn(offset, word);
    }
  }
}
