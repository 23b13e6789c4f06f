/**
 * The driver's side of a split virtqueue, word for word: descriptors, the available ring, the used ring, notifications
 * (virtio 1.2 §2.7). It keeps a well-behaved driver's counters, and lets a test put anything anywhere.
 */
import { assert } from "@spindle/base";
import type { GuestMemory, GuestWindow } from "../guest-memory.ts";
import {
  availEventOffset,
  DESCRIPTOR_BYTES,
  INDEX_OFFSET,
  openQueueLayout,
  type QueueLayout,
  type QueueWindows,
  RING_OFFSET,
  USED_ELEMENT_BYTES,
  usedEventOffset,
  VIRTQ_AVAIL_F_NO_INTERRUPT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_USED_F_NO_NOTIFY,
} from "../queue-layout.ts";
import { eventReached, type RingFeatures } from "../virtqueue.ts";
import { type Descriptor, type DriverRing, type UsedElement, writeBuffer } from "./driver-ring.ts";

export class SplitDriverRing implements DriverRing {
  readonly size: number;
  readonly #windows: QueueWindows;
  readonly #features: RingFeatures;
  readonly #chainMax: number;
  /** The number under which the chain with a head was offered. */
  readonly #ids: Uint16Array;
  /** With VIRTIO_F_IN_ORDER, the descriptor that comes next in the table. */
  #nextDescriptor = 0;
  #nextAvailable = 0;
  #publishedAvailable = 0;
  #nextUsed = 0;

  /**
   * Starts on rings that are all zeros.
   * @param chainMax the most descriptors of a chain that `offerChain` gets
   */
  constructor(memory: GuestMemory, layout: QueueLayout, features: RingFeatures, chainMax = 1) {
    const windows = openQueueLayout(memory, layout);
    assert(windows !== undefined, "the driver's rings are not valid guest memory");
    this.#windows = windows;
    this.size = layout.size;
    this.#features = features;
    this.#chainMax = chainMax;
    this.#ids = new Uint16Array(layout.size);
  }

  setDescriptor(index: number, descriptor: Descriptor): void {
    writeDescriptor(this.#windows.descriptors, index, descriptor, descriptor.flags ?? 0, descriptor.next ?? 0);
  }

  writeTableEntry(table: GuestWindow, index: number, descriptor: Descriptor, last: boolean): void {
    const flags = descriptor.flags ?? 0;
    writeDescriptor(table, index, descriptor, last ? flags : flags | VIRTQ_DESC_F_NEXT, last ? 0 : index + 1);
  }

  offerChain(id: number, chain: readonly Descriptor[]): void {
    const { inOrder } = this.#features;
    const head = inOrder ? this.#nextDescriptor : id * this.#chainMax;
    for (let place = 0; place < chain.length; place++) {
      const descriptor = chain[place] as Descriptor;
      const last = place === chain.length - 1;
      // Only in order do chains run over the table's end.
      const index = (head + place) & (this.size - 1);
      const next = (index + 1) & (this.size - 1);
      const flags = descriptor.flags ?? 0;
      writeDescriptor(
        this.#windows.descriptors,
        index,
        descriptor,
        last ? flags : flags | VIRTQ_DESC_F_NEXT,
        last ? 0 : next,
      );
    }
    if (inOrder) this.#nextDescriptor = (head + chain.length) & (this.size - 1);
    this.offer(head);
    this.#ids[head] = id;
  }

  /** Puts a head, which is also the chain's number, on the available ring. The device sees it after `publish`. */
  offer(head: number): void {
    if (head < this.size) this.#ids[head] = head;
    this.#windows.available.setU16(RING_OFFSET + 2 * (this.#nextAvailable & (this.size - 1)), head);
    this.#nextAvailable = (this.#nextAvailable + 1) & 0xffff;
  }

  publish(): boolean {
    const before = this.#publishedAvailable;
    const after = this.#nextAvailable;
    if (before === after) return false;
    this.#publishedAvailable = after;
    // As in the device: the store of the index comes before the load of what the other side wishes.
    this.#windows.available.storeU16(INDEX_OFFSET, after);
    if (!this.#features.eventIndex) return (this.#windows.used.loadU16(0) & VIRTQ_USED_F_NO_NOTIFY) === 0;
    return eventReached(this.#windows.used.loadU16(availEventOffset(this.size)), after, before);
  }

  /** Moves the available index to any number, as no honest driver would. */
  setAvailableIndex(index: number): void {
    this.#windows.available.storeU16(INDEX_OFFSET, index);
  }

  get hasUsed(): boolean {
    return this.#windows.used.loadU16(INDEX_OFFSET) !== this.#nextUsed;
  }

  takeUsed(): UsedElement | undefined {
    if (!this.hasUsed) return undefined;
    const { used } = this.#windows;
    const element = RING_OFFSET + USED_ELEMENT_BYTES * (this.#nextUsed & (this.size - 1));
    this.#nextUsed = (this.#nextUsed + 1) & 0xffff;
    const head = used.u32(element);
    return { id: this.#ids[head] ?? head, length: used.u32(element + 4) };
  }

  requestInterrupts(): void {
    const { available } = this.#windows;
    if (this.#features.eventIndex) available.storeU16(usedEventOffset(this.size), this.#nextUsed);
    else available.storeU16(0, 0);
  }

  suppressInterrupts(): void {
    if (!this.#features.eventIndex) this.#windows.available.storeU16(0, VIRTQ_AVAIL_F_NO_INTERRUPT);
  }
}

function writeDescriptor(table: GuestWindow, index: number, buffer: Descriptor, flags: number, next: number): void {
  writeBuffer(table, index, buffer);
  table.setU16(index * DESCRIPTOR_BYTES + 12, flags);
  table.setU16(index * DESCRIPTOR_BYTES + 14, next);
}
