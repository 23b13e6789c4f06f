/**
 * The virtio-mmio transport, version 1 (virtio 1.2 §4.2.4): what drivers from before virtio 1.0 use. The rings of a queue
 * stand in one piece, given as a page number; there is no FEATURES_OK, and no feature above bit 31. The guest is
 * little-endian.
 */
import { isPowerOfTwo } from "@spindle/base";
import type { VirtioBlkHandle } from "./create-device.ts";
import { VIRTIO_F_ANY_LAYOUT } from "./features.ts";
import { MmioRegisters } from "./mmio-registers.ts";
import { legacyLayout } from "./queue-layout.ts";
import { makeReady, stopQueue } from "./queue-setup.ts";
import { type QueueState, QueueWord } from "./queue-state.ts";
import * as mmio from "./registers.ts";

export class LegacyMmioTransport extends MmioRegisters {
  protected readonly version = 1;
  /** The page number of each queue's rings; 0 while it has none. */
  readonly #pages: Uint32Array;
  readonly #alignments: Uint32Array;
  #pageSize = 0;

  constructor(handle: VirtioBlkHandle) {
    super(handle);
    this.#pages = new Uint32Array(handle.queueCount);
    this.#alignments = new Uint32Array(handle.queueCount);
  }

  protected readOwn(offset: number): number {
    switch (offset) {
      case mmio.VIRTIO_MMIO_DEVICE_FEATURES:
        return this.deviceFeaturesSelected === 0 ? this.#offered : 0;
      case mmio.VIRTIO_MMIO_QUEUE_NUM_MAX:
        return this.#usable === undefined ? 0 : this.state.handle.queueSizeMax;
      case mmio.VIRTIO_MMIO_QUEUE_PFN:
        return this.queue === undefined ? 0 : (this.#pages[this.queueSelected] as number);
      default:
        return 0;
    }
  }

  protected writeOwn(offset: number, word: number): void {
    switch (offset) {
      case mmio.VIRTIO_MMIO_DRIVER_FEATURES:
        // There is no way to refuse features: what was not offered is not taken.
        if (this.driverFeaturesSelected === 0) this.state.setDriverFeatures("low", (word & this.#offered) >>> 0);
        break;
      case mmio.VIRTIO_MMIO_GUEST_PAGE_SIZE:
        this.#pageSize = word;
        break;
      case mmio.VIRTIO_MMIO_QUEUE_NUM:
        this.#usable?.setWord(QueueWord.size, word);
        break;
      case mmio.VIRTIO_MMIO_QUEUE_ALIGN:
        if (this.#usable !== undefined) this.#alignments[this.queueSelected] = word;
        break;
      case mmio.VIRTIO_MMIO_QUEUE_PFN:
        this.#setPage(word);
        break;
      case mmio.VIRTIO_MMIO_STATUS:
        if (word === 0) this.#reset();
        else this.state.addStatus(word, true);
        break;
      default:
        break;
    }
  }

  /** A queue whose rings are not memory does not begin: its page number reads as 0. */
  #setPage(page: number): void {
    const { queue } = this;
    if (queue === undefined) return;
    if (page === 0) {
      this.#pages[this.queueSelected] = 0;
      stopQueue(this.state, queue);
      return;
    }
    const alignment = this.#alignments[this.queueSelected] as number;
    const layout = legacyLayout(page * this.#pageSize, queue.layout.size, alignment);
    const valid = isPowerOfTwo(alignment) && isPowerOfTwo(this.#pageSize);
    if (!queue.stopped || !valid || !Number.isSafeInteger(layout.deviceAddress)) return;
    queue.setLayout(layout);
    makeReady(this.state, this.memory, queue);
    if (queue.enabled) this.#pages[this.queueSelected] = page;
  }

  #reset(): void {
    this.#pages.fill(0);
    this.#alignments.fill(0);
    this.state.beginReset();
  }

  get #offered(): number {
    return (this.state.handle.offered.low | VIRTIO_F_ANY_LAYOUT) >>> 0;
  }

  /** The selected queue while it can be set up. */
  get #usable(): QueueState | undefined {
    return this.queue?.stopped ? this.queue : undefined;
  }
}
