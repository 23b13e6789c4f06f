/**
 * A place in a packed ring with its wrap counter, and the arithmetic that device and driver share (virtio 1.2 §2.8.1 and
 * §2.8.10).
 */
import {
  RING_EVENT_FLAGS_DESC,
  RING_EVENT_FLAGS_DISABLE,
  VIRTQ_DESC_F_AVAIL,
  VIRTQ_DESC_F_USED,
} from "./queue-layout.ts";
import { eventReached } from "./virtqueue.ts";

/** Where the wrap counter stands in a word that has a place as well. */
const WRAP = 0x8000;

export class RingPlace {
  readonly #size: number;
  index = 0;
  /** The wrap counter: true is 1, as it begins. */
  wrap = true;

  /** @param size descriptors of the ring. */
  constructor(size: number) {
    this.#size = size;
  }

  /** The place in bits 0 to 14, the wrap counter in bit 15. */
  get word(): number {
    return this.index + (this.wrap ? WRAP : 0);
  }

  /** @param steps at most the ring's size. */
  advance(steps: number): void {
    this.index += steps;
    if (this.index < this.#size) return;
    this.index -= this.#size;
    this.wrap = !this.wrap;
  }

  /** @returns whether there is such a place; nothing is changed when there is not. */
  goTo(word: number): boolean {
    const index = word & (WRAP - 1);
    if (index >= this.#size) return false;
    this.index = index;
    this.wrap = (word & WRAP) !== 0;
    return true;
  }

  /** An offset in the ring with a wrap counter, as a number that can be compared with `index`. */
  relative(word: number): number {
    const sameTurn = ((word & WRAP) !== 0) === this.wrap;
    return (word & (WRAP - 1)) - (sameTurn ? 0 : this.#size);
  }
}

/** The two flags of a descriptor that the driver makes available. */
export function availableFlagsAt(wrap: boolean): number {
  return wrap ? VIRTQ_DESC_F_AVAIL : VIRTQ_DESC_F_USED;
}

/** The two flags of a descriptor that the device has used. */
export function usedFlagsAt(wrap: boolean): number {
  return wrap ? VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED : 0;
}

/** Whether flags say that a descriptor is available. */
export function availableAt(flags: number, wrap: boolean): boolean {
  return (flags & (VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED)) === availableFlagsAt(wrap);
}

/** Whether flags say that a descriptor is used. */
export function usedAt(flags: number, wrap: boolean): boolean {
  return (flags & (VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED)) === usedFlagsAt(wrap);
}

/** The event suppression structure that asks for an event when the descriptor at a place changes hands. */
export function eventAt(word: number): number {
  return RING_EVENT_FLAGS_DESC * 0x1_0000 + word;
}

/**
 * Whether the other side wants an event.
 * @param wish its event suppression structure, as one word
 * @param eventIndex whether events for a descriptor were negotiated; without that the other side gets one too many
 * @param place where this side stands after it moved by `moved` descriptors
 */
export function eventPassed(wish: number, eventIndex: boolean, place: RingPlace, moved: number): boolean {
  const flags = (wish >>> 16) & 3;
  if (flags === RING_EVENT_FLAGS_DISABLE) return false;
  if (flags !== RING_EVENT_FLAGS_DESC || !eventIndex) return true;
  return eventReached(place.relative(wish & 0xffff), place.index, place.index - moved);
}
