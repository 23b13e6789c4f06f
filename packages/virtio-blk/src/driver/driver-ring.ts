/**
 * The driver's side of a split virtqueue, word for word: descriptors, the available ring, the used ring, notifications
 * (virtio 1.2 §2.7). It keeps a well-behaved driver's counters, and lets a test put anything anywhere.
 */
import { assert } from "@spindle/base";
import type { GuestMemory } from "../guest-memory.ts";
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
  VIRTQ_USED_F_NO_NOTIFY,
} from "../queue-layout.ts";
import { eventReached } from "../split-queue.ts";

/** A descriptor as it stands in memory; what is left out is 0. */
export interface Descriptor {
  /** A bigint reaches beyond 2^53. */
  readonly address: number | bigint;
  readonly length: number;
  readonly flags?: number;
  readonly next?: number;
}

/** An entry of the used ring. */
export interface UsedElement {
  readonly id: number;
  readonly length: number;
}

export class DriverRing {
  readonly size: number;
  readonly #windows: QueueWindows;
  readonly #eventIndex: boolean;
  #nextAvailable = 0;
  #publishedAvailable = 0;
  #nextUsed = 0;

  /** Starts on rings that are all zeros. */
  constructor(memory: GuestMemory, layout: QueueLayout, eventIndex: boolean) {
    const windows = openQueueLayout(memory, layout);
    assert(windows !== undefined, "the driver's rings are not valid guest memory");
    this.#windows = windows;
    this.size = layout.size;
    this.#eventIndex = eventIndex;
  }

  setDescriptor(index: number, descriptor: Descriptor): void {
    const table = this.#windows.descriptors;
    const base = index * DESCRIPTOR_BYTES;
    const address = BigInt(descriptor.address);
    table.setU32(base, Number(address % 2n ** 32n));
    table.setU32(base + 4, Number(address / 2n ** 32n));
    table.setU32(base + 8, descriptor.length);
    table.setU16(base + 12, descriptor.flags ?? 0);
    table.setU16(base + 14, descriptor.next ?? 0);
  }

  /** Puts a head on the available ring. The device sees it after `publish`. */
  offer(head: number): void {
    this.#windows.available.setU16(RING_OFFSET + 2 * (this.#nextAvailable & (this.size - 1)), head);
    this.#nextAvailable = (this.#nextAvailable + 1) & 0xffff;
  }

  /** Shows the device all that was offered. @returns whether it wants a kick for it. */
  publish(): boolean {
    const before = this.#publishedAvailable;
    const after = this.#nextAvailable;
    if (before === after) return false;
    this.#publishedAvailable = after;
    // As in the device: the store of the index comes before the load of what the other side wishes.
    this.#windows.available.storeU16(INDEX_OFFSET, after);
    if (!this.#eventIndex) return (this.#windows.used.loadU16(0) & VIRTQ_USED_F_NO_NOTIFY) === 0;
    return eventReached(this.#windows.used.loadU16(availEventOffset(this.size)), after, before);
  }

  /** Moves the available index to any number, as no honest driver would. */
  setAvailableIndex(index: number): void {
    this.#windows.available.storeU16(INDEX_OFFSET, index);
  }

  /** Whether `takeUsed` would give something. */
  get hasUsed(): boolean {
    return this.#windows.used.loadU16(INDEX_OFFSET) !== this.#nextUsed;
  }

  /** Takes the next entry of the used ring. */
  takeUsed(): UsedElement | undefined {
    if (!this.hasUsed) return undefined;
    const { used } = this.#windows;
    const element = RING_OFFSET + USED_ELEMENT_BYTES * (this.#nextUsed & (this.size - 1));
    this.#nextUsed = (this.#nextUsed + 1) & 0xffff;
    return { id: used.u32(element), length: used.u32(element + 4) };
  }

  /** Asks for an interrupt with the next used entry. Look at `hasUsed` *afterwards*, and only then sleep. */
  requestInterrupts(): void {
    const { available } = this.#windows;
    if (this.#eventIndex) available.storeU16(usedEventOffset(this.size), this.#nextUsed);
    else available.storeU16(0, 0);
  }

  /** Advises the device that interrupts are not needed. */
  suppressInterrupts(): void {
    if (!this.#eventIndex) this.#windows.available.storeU16(0, VIRTQ_AVAIL_F_NO_INTERRUPT);
  }
}
