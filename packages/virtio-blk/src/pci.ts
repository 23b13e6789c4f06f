/**
 * The virtio-pci transport, modern (virtio 1.2 §4.1), for emulators with a PCI bus: accesses of the configuration space
 * and of the one BAR, which may be memory or ports, become changes of the device state. It never blocks, and no access of a
 * guest makes it throw. Interrupts go out through what the emulator hands in.
 */
import { type Co, until } from "@spindle/base";
import type { VirtioBlkHandle } from "./create-device.ts";
import { DeviceState } from "./device-state.ts";
import type { FeatureBits } from "./features.ts";
import { GuestMemory } from "./guest-memory.ts";
import { PciConfigSpace, type PciSpaceOptions } from "./pci-config-space.ts";
import * as pci from "./pci-layout.ts";
import { makeReady } from "./queue-setup.ts";
import { type QueueState, QueueWord } from "./queue-state.ts";
import { type AccessWidth, isAccess, littleEndian, littleEndianValue } from "./register-bytes.ts";

/** The emulator's interrupts, called on the transport's thread. */
export interface PciInterrupts {
  /** Raises or lowers INTx; called again with the same level at times. */
  setLine(raised: boolean): void;
  /** MSI-X, where the emulator has it: its table and masks are the emulator's. */
  readonly msix?: PciMsix;
}

export interface PciMsix {
  /** The capability for the configuration space: id, next (left to the transport), control, table, PBA. */
  readonly capability: Uint8Array;
  readonly vectorCount: number;
  /** Sends a message, or sets its pending bit. Called while the driver has MSI-X enabled in the control word. */
  send(vector: number): void;
}

const QUEUE_ADDRESSES: ReadonlyMap<number, QueueWord> = new Map<number, QueueWord>([
  [pci.COMMON_QUEUE_DESC, QueueWord.descriptorLow],
  [pci.COMMON_QUEUE_DESC + 4, QueueWord.descriptorHigh],
  [pci.COMMON_QUEUE_DRIVER, QueueWord.driverLow],
  [pci.COMMON_QUEUE_DRIVER + 4, QueueWord.driverHigh],
  [pci.COMMON_QUEUE_DEVICE, QueueWord.deviceLow],
  [pci.COMMON_QUEUE_DEVICE + 4, QueueWord.deviceHigh],
]);

export interface PciTransportOptions extends Pick<PciSpaceOptions, "bar"> {
  readonly interrupts: PciInterrupts;
}

export class PciTransport {
  readonly #state: DeviceState;
  readonly #memory: GuestMemory;
  readonly #interrupts: PciInterrupts;
  readonly #space: PciConfigSpace;
  readonly #queueVectors: Uint16Array;
  #configVector: number = pci.VIRTIO_MSI_NO_VECTOR;
  #deviceFeaturesSelected = 0;
  #driverFeaturesSelected = 0;
  #queueSelected = 0;

  /**
   * One thread has the transport. It is given the interrupts of all queues, and of the configuration, by being named as
   * their thread in the device's state, and calls `deliver` when its doorbell rings.
   */
  constructor(handle: VirtioBlkHandle, { bar, interrupts }: PciTransportOptions) {
    this.#state = new DeviceState(handle);
    this.#memory = new GuestMemory(handle.memory);
    this.#interrupts = interrupts;
    this.#space = new PciConfigSpace({ bar, msixCapability: interrupts.msix?.capability });
    this.#queueVectors = new Uint16Array(handle.queueCount).fill(pci.VIRTIO_MSI_NO_VECTOR);
  }

  /** The configuration space as it stands, for emulators that take it whole. */
  get configSpace(): Uint8Array {
    return this.#space.bytes.slice();
  }

  /** Where the driver has put the BAR; undefined while it does not answer to accesses. */
  get barAddress(): number | undefined {
    const register = this.#space.read(pci.PCI_BAR0, 4);
    const isIo = register % 2 === 1;
    const enabled = this.#space.command & (isIo ? pci.PCI_COMMAND_IO : pci.PCI_COMMAND_MEMORY);
    return enabled === 0 ? undefined : register - (register % pci.BAR_BYTES);
  }

  readConfig(offset: number, width: AccessWidth): number {
    if (!isAccess(offset, width)) return 0;
    const window = this.#space.windowAt(offset);
    if (window !== undefined) return this.readBar(window.offset, window.width);
    return this.#space.read(offset, width);
  }

  writeConfig(offset: number, value: number, width: AccessWidth): void {
    if (!isAccess(offset, width)) return;
    const window = this.#space.windowAt(offset);
    if (window !== undefined) this.writeBar(window.offset, value, window.width);
    else this.#space.write(offset, value, width);
    // INTx may have been switched off.
    this.deliver();
  }

  readBar(offset: number, width: AccessWidth): number {
    if (!isAccess(offset, width)) return 0;
    if (offset >= pci.DEVICE_OFFSET)
      return littleEndianValue(this.#state.readConfiguration(offset - pci.DEVICE_OFFSET, width));
    if (offset >= pci.ISR_OFFSET) return offset === pci.ISR_OFFSET ? this.#readIsr() : 0;
    return this.#readCommon(offset, width);
  }

  writeBar(offset: number, value: number, width: AccessWidth): void {
    if (!isAccess(offset, width)) return;
    if (offset >= pci.DEVICE_OFFSET) {
      this.#state.writeConfiguration(offset - pci.DEVICE_OFFSET, littleEndian(value, width));
      return;
    }
    if (offset === pci.NOTIFY_OFFSET) {
      const kicked = this.#state.queues[value & 0xffff];
      if (kicked !== undefined && width !== 1) this.#state.kick(kicked);
      return;
    }
    // A driver waits until the status reads 0 before it goes on.
    if (offset < pci.COMMON_BYTES && this.#finishReset()) this.#writeCommon(offset, value >>> 0, width);
  }

  /** Passes on the interrupts that queues and configuration have asked for. */
  deliver(): void {
    const { msix } = this.#interrupts;
    if (msix === undefined || !this.#space.msixEnabled) {
      const masked = (this.#space.command & pci.PCI_COMMAND_INTX_DISABLE) !== 0;
      this.#interrupts.setLine(this.#state.interruptStatus !== 0 && !masked);
      return;
    }
    this.#interrupts.setLine(false);
    this.#state.queues.forEach((queue, index) => {
      if (queue.takeInterrupt()) this.#send(msix, this.#queueVectors[index] as number);
    });
    if (this.#state.takeConfigInterrupt()) this.#send(msix, this.#configVector);
  }

  /** Waits until a reset is over, for front ends whose guests do not look again. */
  *resetComplete(): Co<void> {
    yield* until(() => this.#finishReset());
  }

  #send(msix: PciMsix, vector: number): void {
    if (vector !== pci.VIRTIO_MSI_NO_VECTOR) msix.send(vector);
  }

  /** Reading the status acknowledges it. */
  #readIsr(): number {
    const status = this.#state.takeInterruptStatus();
    this.#interrupts.setLine(false);
    return status;
  }

  #readCommon(offset: number, width: AccessWidth): number {
    if (width !== widthOf(offset)) return 0;
    const queue = this.#queue();
    switch (offset) {
      case pci.COMMON_DEVICE_FEATURE_SELECT:
        return this.#deviceFeaturesSelected;
      case pci.COMMON_DEVICE_FEATURE:
        return half(this.#state.handle.offered, this.#deviceFeaturesSelected);
      case pci.COMMON_DRIVER_FEATURE_SELECT:
        return this.#driverFeaturesSelected;
      case pci.COMMON_DRIVER_FEATURE:
        return half(this.#state.driverFeatures, this.#driverFeaturesSelected);
      case pci.COMMON_CONFIG_MSIX_VECTOR:
        return this.#configVector;
      case pci.COMMON_NUM_QUEUES:
        return this.#state.handle.queueCount;
      case pci.COMMON_DEVICE_STATUS:
        this.#finishReset();
        return this.#state.status;
      case pci.COMMON_CONFIG_GENERATION:
        return this.#state.configGeneration & 0xff;
      case pci.COMMON_QUEUE_SELECT:
        return this.#queueSelected;
      default:
        return queue === undefined ? 0 : this.#readQueue(queue, offset);
    }
  }

  #readQueue(queue: QueueState, offset: number): number {
    switch (offset) {
      case pci.COMMON_QUEUE_SIZE:
        return queue.layout.size || this.#state.handle.queueSizeMax;
      case pci.COMMON_QUEUE_MSIX_VECTOR:
        return this.#queueVectors[this.#queueSelected] as number;
      case pci.COMMON_QUEUE_ENABLE:
        return queue.stopped ? 0 : 1;
      default: {
        const word = QUEUE_ADDRESSES.get(offset);
        return word === undefined ? 0 : queue.word(word);
      }
    }
  }

  #writeCommon(offset: number, value: number, width: AccessWidth): void {
    if (width !== widthOf(offset)) return;
    switch (offset) {
      case pci.COMMON_DEVICE_FEATURE_SELECT:
        this.#deviceFeaturesSelected = value;
        break;
      case pci.COMMON_DRIVER_FEATURE_SELECT:
        this.#driverFeaturesSelected = value;
        break;
      case pci.COMMON_DRIVER_FEATURE:
        if (this.#driverFeaturesSelected <= 1)
          this.#state.setDriverFeatures(this.#driverFeaturesSelected === 0 ? "low" : "high", value);
        break;
      case pci.COMMON_CONFIG_MSIX_VECTOR:
        this.#configVector = this.#vector(value);
        break;
      case pci.COMMON_DEVICE_STATUS:
        if ((value & 0xff) === 0) this.#reset();
        else this.#state.addStatus(value & 0xff);
        break;
      case pci.COMMON_QUEUE_SELECT:
        this.#queueSelected = value & 0xffff;
        break;
      default:
        this.#writeQueue(offset, value);
    }
  }

  #writeQueue(offset: number, value: number): void {
    const queue = this.#queue();
    if (queue === undefined) return;
    if (offset === pci.COMMON_QUEUE_MSIX_VECTOR) this.#queueVectors[this.#queueSelected] = this.#vector(value);
    // The driver takes a queue back by a reset of the device: there is no way to disable one.
    else if (offset === pci.COMMON_QUEUE_ENABLE && (value & 0xffff) === 1) this.#enable(queue);
    else if (queue.stopped) {
      const word = offset === pci.COMMON_QUEUE_SIZE ? QueueWord.size : QUEUE_ADDRESSES.get(offset);
      if (word !== undefined) queue.setWord(word, word === QueueWord.size ? value & 0xffff : value);
    }
  }

  /** A driver that does not choose a size takes the largest. */
  #enable(queue: QueueState): void {
    if (queue.stopped && queue.layout.size === 0) queue.setWord(QueueWord.size, this.#state.handle.queueSizeMax);
    makeReady(this.#state, this.#memory, queue);
  }

  /** Ends a reset as soon as it can end; the interrupt ends with it. @returns whether no reset is under way. */
  #finishReset(): boolean {
    if (!this.#state.resetting) return true;
    if (!this.#state.finishReset()) return false;
    this.deliver();
    return true;
  }

  #reset(): void {
    this.#configVector = pci.VIRTIO_MSI_NO_VECTOR;
    this.#queueVectors.fill(pci.VIRTIO_MSI_NO_VECTOR);
    this.#state.beginReset();
    this.deliver();
  }

  /** A vector that there is not reads back as none. */
  #vector(value: number): number {
    const vector = value & 0xffff;
    return vector < (this.#interrupts.msix?.vectorCount ?? 0) ? vector : pci.VIRTIO_MSI_NO_VECTOR;
  }

  #queue(): QueueState | undefined {
    return this.#state.queues[this.#queueSelected];
  }
}

function half(features: FeatureBits, selected: number): number {
  if (selected > 1) return 0;
  return selected === 0 ? features.low : features.high;
}

/** The width of the field at an offset of the common structure; the two halves of an address are fields. */
function widthOf(offset: number): AccessWidth {
  if (offset < pci.COMMON_CONFIG_MSIX_VECTOR || offset >= pci.COMMON_QUEUE_DESC) return 4;
  return offset === pci.COMMON_DEVICE_STATUS || offset === pci.COMMON_CONFIG_GENERATION ? 1 : 2;
}
