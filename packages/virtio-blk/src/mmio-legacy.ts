/**
 * The virtio-mmio transport, version 1 (virtio 1.2 §4.2.4): what drivers from before virtio 1.0 use. The rings of a queue
 * stand in one piece, given as a page number; there is no FEATURES_OK, and no feature above bit 31. The guest is
 * little-endian.
 */
import { type Co, isPowerOfTwo, until } from "@spindle/base";
import type { VirtioBlkHandle } from "./create-device.ts";
import { DeviceState } from "./device-state.ts";
import { VIRTIO_F_ANY_LAYOUT } from "./features.ts";
import { GuestMemory } from "./guest-memory.ts";
import { VENDOR_ID } from "./mmio.ts";
import { legacyLayout } from "./queue-layout.ts";
import { makeReady, stopQueue } from "./queue-setup.ts";
import { type QueueState, QueueWord } from "./queue-state.ts";
import { type AccessWidth, isAccess, littleEndian, littleEndianValue } from "./register-bytes.ts";
import * as mmio from "./registers.ts";

export class LegacyMmioTransport implements mmio.Registers {
  readonly #state: DeviceState;
  readonly #memory: GuestMemory;
  /** The page number of each queue's rings; 0 while it has none. */
  readonly #pages: Uint32Array;
  readonly #alignments: Uint32Array;
  #pageSize = 0;
  #deviceFeaturesSelected = 0;
  #driverFeaturesSelected = 0;
  #queueSelected = 0;

  /** One thread has the transport; kicks alone (`QueueNotify`) may come through transports on several threads. */
  constructor(handle: VirtioBlkHandle) {
    this.#state = new DeviceState(handle);
    this.#memory = new GuestMemory(handle.memory);
    this.#pages = new Uint32Array(handle.queueCount);
    this.#alignments = new Uint32Array(handle.queueCount);
  }

  read(offset: number, width: AccessWidth = 4): number {
    if (!isAccess(offset, width)) return 0;
    if (offset >= mmio.VIRTIO_MMIO_CONFIG)
      return littleEndianValue(this.#state.readConfiguration(offset - mmio.VIRTIO_MMIO_CONFIG, width));
    if (width !== 4) return 0;
    switch (offset) {
      case mmio.VIRTIO_MMIO_MAGIC_VALUE:
        return mmio.VIRTIO_MMIO_MAGIC;
      case mmio.VIRTIO_MMIO_VERSION:
        return 1;
      case mmio.VIRTIO_MMIO_DEVICE_ID:
        return mmio.VIRTIO_ID_BLOCK;
      case mmio.VIRTIO_MMIO_VENDOR_ID:
        return VENDOR_ID;
      case mmio.VIRTIO_MMIO_DEVICE_FEATURES:
        return this.#deviceFeaturesSelected === 0 ? this.#offered : 0;
      case mmio.VIRTIO_MMIO_QUEUE_NUM_MAX:
        return this.#usable() === undefined ? 0 : this.#state.handle.queueSizeMax;
      case mmio.VIRTIO_MMIO_QUEUE_PFN:
        return this.#queue() === undefined ? 0 : (this.#pages[this.#queueSelected] as number);
      case mmio.VIRTIO_MMIO_INTERRUPT_STATUS:
        return this.#state.interruptStatus;
      case mmio.VIRTIO_MMIO_STATUS:
        this.#state.finishReset();
        return this.#state.status;
      default:
        return 0;
    }
  }

  write(offset: number, value: number, width: AccessWidth = 4): void {
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
    } else if (this.#state.finishReset()) this.#writeControl(offset, word);
  }

  /** Waits until a reset is over. Legacy drivers do not look: front ends run it before the guest goes on. */
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
        // There is no way to refuse features: what was not offered is not taken.
        if (this.#driverFeaturesSelected === 0) this.#state.setDriverFeatures("low", (word & this.#offered) >>> 0);
        break;
      case mmio.VIRTIO_MMIO_GUEST_PAGE_SIZE:
        this.#pageSize = word;
        break;
      case mmio.VIRTIO_MMIO_QUEUE_SEL:
        this.#queueSelected = word;
        break;
      case mmio.VIRTIO_MMIO_QUEUE_NUM:
        this.#usable()?.setWord(QueueWord.size, word);
        break;
      case mmio.VIRTIO_MMIO_QUEUE_ALIGN:
        if (this.#usable() !== undefined) this.#alignments[this.#queueSelected] = word;
        break;
      case mmio.VIRTIO_MMIO_QUEUE_PFN:
        this.#setPage(word);
        break;
      case mmio.VIRTIO_MMIO_INTERRUPT_ACK:
        this.#state.acknowledgeInterrupt(word);
        break;
      case mmio.VIRTIO_MMIO_STATUS:
        if (word === 0) this.#reset();
        else this.#state.addStatus(word, true);
        break;
      default:
        break;
    }
  }

  /** A queue whose rings are not memory does not begin: its page number reads as 0. */
  #setPage(page: number): void {
    const queue = this.#queue();
    if (queue === undefined) return;
    if (page === 0) {
      this.#pages[this.#queueSelected] = 0;
      stopQueue(this.#state, queue);
      return;
    }
    const alignment = this.#alignments[this.#queueSelected] as number;
    const layout = legacyLayout(page * this.#pageSize, queue.layout.size, alignment);
    const valid = isPowerOfTwo(alignment) && isPowerOfTwo(this.#pageSize);
    if (!queue.stopped || !valid || !Number.isSafeInteger(layout.deviceAddress)) return;
    queue.setLayout(layout);
    makeReady(this.#state, this.#memory, queue);
    if (queue.enabled) this.#pages[this.#queueSelected] = page;
  }

  #reset(): void {
    this.#pages.fill(0);
    this.#alignments.fill(0);
    this.#state.beginReset();
  }

  get #offered(): number {
    return (this.#state.handle.offered.low | VIRTIO_F_ANY_LAYOUT) >>> 0;
  }

  #queue(): QueueState | undefined {
    return this.#state.queues[this.#queueSelected];
  }

  /** The selected queue while it can be set up. */
  #usable(): QueueState | undefined {
    const queue = this.#queue();
    return queue?.stopped ? queue : undefined;
  }
}
