/**
 * The driver's side of a packed virtqueue (virtio 1.2 §2.8): descriptors in ring order, wrap counters, event
 * suppression. Like the split one it keeps a well-behaved driver's counters, and lets a test put anything anywhere.
 */
import { assert } from "@spindle/base";
import type { GuestMemory, GuestWindow } from "../guest-memory.ts";
import {
  DESCRIPTOR_BYTES,
  openPackedLayout,
  PACKED_FLAGS_OFFSET,
  PACKED_ID_OFFSET,
  type PackedWindows,
  type QueueLayout,
  RING_EVENT_FLAGS_DISABLE,
  RING_EVENT_FLAGS_ENABLE,
  VIRTQ_DESC_F_NEXT,
} from "../queue-layout.ts";
import { availableFlagsAt, eventAt, eventPassed, RingPlace, usedAt } from "../ring-place.ts";
import type { RingFeatures } from "../virtqueue.ts";
import { type Descriptor, type DriverRing, type UsedElement, writeBuffer } from "./driver-ring.ts";

/** Buffer ids that there can be. */
const IDS = 65_536;

export class PackedDriverRing implements DriverRing {
  readonly size: number;
  readonly #windows: PackedWindows;
  readonly #eventIndex: boolean;
  readonly #available: RingPlace;
  readonly #used: RingPlace;
  /** Descriptors of the chain with an id. */
  readonly #slots: Uint16Array = new Uint16Array(IDS);
  /** Descriptors that were offered since `publish`. */
  #unpublished = 0;
  /** The first of them becomes available last: its place and its flags. */
  #heldIndex = 0;
  #heldFlags = 0;

  /** Starts on rings that are all zeros. */
  constructor(memory: GuestMemory, layout: QueueLayout, features: RingFeatures) {
    const windows = openPackedLayout(memory, layout);
    assert(windows !== undefined, "the driver's rings are not valid guest memory");
    this.#windows = windows;
    this.size = layout.size;
    this.#eventIndex = features.eventIndex;
    this.#available = new RingPlace(this.size);
    this.#used = new RingPlace(this.size);
  }

  writeTableEntry(table: GuestWindow, index: number, descriptor: Descriptor, _last: boolean): void {
    writeBuffer(table, index, descriptor);
    table.setU16(index * DESCRIPTOR_BYTES + PACKED_ID_OFFSET, 0);
    table.setU16(index * DESCRIPTOR_BYTES + PACKED_FLAGS_OFFSET, descriptor.flags ?? 0);
  }

  offerChain(id: number, chain: readonly Descriptor[]): void {
    const last = chain.length - 1;
    for (let place = 0; place <= last; place++) {
      const descriptor = chain[place] as Descriptor;
      const flags = descriptor.flags ?? 0;
      this.offerDescriptor(id, descriptor, place < last ? flags | VIRTQ_DESC_F_NEXT : flags);
    }
    this.#slots[id] = chain.length;
  }

  /**
   * Puts one descriptor on the ring, with `flags` beside those that make it available; `turned` takes the flags of the
   * other turn, as no honest driver would.
   */
  offerDescriptor(id: number, descriptor: Descriptor, flags: number, turned = false): void {
    const { ring } = this.#windows;
    const { index, wrap } = this.#available;
    writeBuffer(ring, index, descriptor);
    ring.setU16(index * DESCRIPTOR_BYTES + PACKED_ID_OFFSET, id);
    const all = flags | availableFlagsAt(wrap !== turned);
    if (this.#unpublished > 0) ring.setU16(index * DESCRIPTOR_BYTES + PACKED_FLAGS_OFFSET, all);
    else {
      this.#heldIndex = index;
      this.#heldFlags = all;
    }
    this.#unpublished += 1;
    this.#available.advance(1);
    this.#slots[id] = 1;
  }

  publish(): boolean {
    const moved = this.#unpublished;
    if (moved === 0) return false;
    this.#unpublished = 0;
    this.#windows.ring.storeU16(this.#heldIndex * DESCRIPTOR_BYTES + PACKED_FLAGS_OFFSET, this.#heldFlags);
    const wish = this.#windows.deviceEvents.loadU32(0);
    return eventPassed(wish, this.#eventIndex, this.#available, moved);
  }

  get hasUsed(): boolean {
    const { index, wrap } = this.#used;
    return usedAt(this.#windows.ring.loadU16(index * DESCRIPTOR_BYTES + PACKED_FLAGS_OFFSET), wrap);
  }

  takeUsed(): UsedElement | undefined {
    if (!this.hasUsed) return undefined;
    const base = this.#used.index * DESCRIPTOR_BYTES;
    const id = this.#windows.ring.u16(base + PACKED_ID_OFFSET);
    this.#used.advance(this.#slots[id] as number);
    return { id, length: this.#windows.ring.u32(base + 8) };
  }

  requestInterrupts(): void {
    const wish = this.#eventIndex ? eventAt(this.#used.word) : RING_EVENT_FLAGS_ENABLE * 0x1_0000;
    this.#windows.driverEvents.storeU32(0, wish);
  }

  suppressInterrupts(): void {
    this.#windows.driverEvents.storeU32(0, RING_EVENT_FLAGS_DISABLE * 0x1_0000);
  }
}
