/** The virtio-mmio transport, version 2 (virtio 1.2 §4.2.2): what reads and writes of the registers do to the device state. */
import { MmioRegisters } from "./mmio-registers.ts";
import { makeReady, stopQueue } from "./queue-setup.ts";
import { QueueWord } from "./queue-state.ts";
import * as mmio from "./registers.ts";

const QUEUE_REGISTERS: ReadonlyMap<number, QueueWord> = new Map<number, QueueWord>([
  [mmio.VIRTIO_MMIO_QUEUE_NUM, QueueWord.size],
  [mmio.VIRTIO_MMIO_QUEUE_DESC_LOW, QueueWord.descriptorLow],
  [mmio.VIRTIO_MMIO_QUEUE_DESC_HIGH, QueueWord.descriptorHigh],
  [mmio.VIRTIO_MMIO_QUEUE_DRIVER_LOW, QueueWord.driverLow],
  [mmio.VIRTIO_MMIO_QUEUE_DRIVER_HIGH, QueueWord.driverHigh],
  [mmio.VIRTIO_MMIO_QUEUE_DEVICE_LOW, QueueWord.deviceLow],
  [mmio.VIRTIO_MMIO_QUEUE_DEVICE_HIGH, QueueWord.deviceHigh],
]);

export class MmioTransport extends MmioRegisters {
  protected readonly version = 2;

  protected readOwn(offset: number): number {
    switch (offset) {
      case mmio.VIRTIO_MMIO_DEVICE_FEATURES:
        return this.#deviceFeatures();
      case mmio.VIRTIO_MMIO_QUEUE_NUM_MAX:
        return this.queue === undefined ? 0 : this.state.handle.queueSizeMax;
      case mmio.VIRTIO_MMIO_QUEUE_READY:
        return (this.queue?.stopped ?? true) ? 0 : 1;
      case mmio.VIRTIO_MMIO_SHM_LEN_LOW:
      case mmio.VIRTIO_MMIO_SHM_LEN_HIGH:
      case mmio.VIRTIO_MMIO_SHM_BASE_LOW:
      case mmio.VIRTIO_MMIO_SHM_BASE_HIGH:
        // All ones: there is no such shared memory region.
        return 0xffff_ffff;
      case mmio.VIRTIO_MMIO_CONFIG_GENERATION:
        return this.state.configGeneration;
      default:
        return 0;
    }
  }

  protected writeOwn(offset: number, word: number): void {
    const queueWord = QUEUE_REGISTERS.get(offset);
    if (queueWord !== undefined) {
      if (this.queue?.stopped) this.queue.setWord(queueWord, word);
      return;
    }
    switch (offset) {
      case mmio.VIRTIO_MMIO_DRIVER_FEATURES:
        if (this.driverFeaturesSelected <= 1)
          this.state.setDriverFeatures(this.driverFeaturesSelected === 0 ? "low" : "high", word);
        break;
      case mmio.VIRTIO_MMIO_QUEUE_READY:
        this.#setReady(word);
        break;
      case mmio.VIRTIO_MMIO_STATUS:
        if (word === 0) this.state.beginReset();
        else this.state.addStatus(word);
        break;
      default:
        break;
    }
  }

  #deviceFeatures(): number {
    if (this.deviceFeaturesSelected > 1) return 0;
    const { low, high } = this.state.handle.offered;
    return this.deviceFeaturesSelected === 0 ? low : high;
  }

  /** A queue whose layout is not valid does not become ready; the driver sees it when it reads the register back. */
  #setReady(word: number): void {
    const { queue } = this;
    if (queue === undefined) return;
    if (word === 0) stopQueue(this.state, queue);
    else makeReady(this.state, this.memory, queue);
  }
}
