/**
 * The device's side of a split virtqueue (virtio 1.2 §2.7): takes descriptor chains from the available ring, gives them
 * back through the used ring, and says when the driver wants to be interrupted. It trusts no word of the guest: each
 * is read once into private memory, and a ring that breaks the rules is left alone for good (`fault`).
 */
import type { DescriptorChain } from "./descriptor-chain.ts";
import type { GuestMemory, GuestWindow } from "./guest-memory.ts";
import type { QueueFault } from "./queue-fault.ts";
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
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_WRITE,
  VIRTQ_USED_F_NO_NOTIFY,
} from "./queue-layout.ts";
import { eventReached, firstPosition, type QueuePosition, type RingFeatures, type Virtqueue } from "./virtqueue.ts";

export class SplitQueue implements Virtqueue {
  readonly size: number;
  readonly #memory: GuestMemory;
  readonly #features: RingFeatures;
  readonly #descriptors: GuestWindow;
  readonly #available: GuestWindow;
  readonly #used: GuestWindow;
  /** The next entry of the available ring to take. */
  #nextAvailable: number;
  /** The available index as it was last read: entries before it may be taken. */
  #seenAvailable: number;
  /** Where the next used element goes. */
  #nextUsed: number;
  /** The used index that the driver sees. */
  #publishedUsed: number;
  #fault: QueueFault | undefined;

  private constructor(
    memory: GuestMemory,
    layout: QueueLayout,
    features: RingFeatures,
    position: QueuePosition,
    windows: QueueWindows,
  ) {
    this.#memory = memory;
    this.size = layout.size;
    this.#features = features;
    this.#descriptors = windows.descriptors;
    this.#available = windows.available;
    this.#used = windows.used;
    this.#nextAvailable = position.nextAvailable;
    this.#seenAvailable = position.nextAvailable;
    this.#nextUsed = position.nextUsed;
    this.#publishedUsed = position.nextUsed;
  }

  /** Opens a queue where the driver put it; undefined when the layout is not valid. */
  static open(
    memory: GuestMemory,
    layout: QueueLayout,
    features: RingFeatures,
    position: QueuePosition = firstPosition(false),
  ): SplitQueue | undefined {
    const windows = openQueueLayout(memory, layout);
    return windows === undefined ? undefined : new SplitQueue(memory, layout, features, position, windows);
  }

  get fault(): QueueFault | undefined {
    return this.#fault;
  }

  get position(): QueuePosition {
    return { nextAvailable: this.#nextAvailable, nextUsed: this.#nextUsed };
  }

  get hasAvailable(): boolean {
    return this.#fault === undefined && this.#available.loadU16(INDEX_OFFSET) !== this.#nextAvailable;
  }

  latch(fault: QueueFault): void {
    this.#fault ??= fault;
  }

  take(chain: DescriptorChain): boolean {
    if (this.#fault !== undefined || !this.#refill()) return false;
    const entry = this.#nextAvailable & (this.size - 1);
    const head = this.#available.u16(RING_OFFSET + 2 * entry);
    this.#nextAvailable = (this.#nextAvailable + 1) & 0xffff;
    return this.takeHead(head, chain);
  }

  /** The same for a chain that was taken before and not given back, of which only the head is known. */
  takeHead(head: number, chain: DescriptorChain): boolean {
    if (this.#fault !== undefined) return false;
    if (head >= this.size) return this.#refuse("a chain's head is outside of the descriptor table");
    chain.reset(head);
    return this.#walk(this.#descriptors, this.size, head, chain, false);
  }

  put(head: number, length: number): void {
    const element = RING_OFFSET + USED_ELEMENT_BYTES * (this.#nextUsed & (this.size - 1));
    this.#used.setU32(element, head);
    this.#used.setU32(element + 4, length);
    this.#nextUsed = (this.#nextUsed + 1) & 0xffff;
  }

  publish(): boolean {
    const before = this.#publishedUsed;
    const after = this.#nextUsed;
    if (before === after) return false;
    this.#publishedUsed = after;
    // The store comes before the load in the one order of atomics: either the driver sees the index when it looks
    // again after asking for interrupts, or its wish is seen here.
    this.#used.storeU16(INDEX_OFFSET, after);
    if (!this.#features.eventIndex) return (this.#available.loadU16(0) & VIRTQ_AVAIL_F_NO_INTERRUPT) === 0;
    return eventReached(this.#available.loadU16(usedEventOffset(this.size)), after, before);
  }

  requestKicks(): void {
    if (this.#features.eventIndex) this.#used.storeU16(availEventOffset(this.size), this.#nextAvailable);
    else this.#used.storeU16(0, 0);
  }

  suppressKicks(): void {
    // With the event index the old event suffices: it was passed, and is not met again for 65,536 entries.
    if (!this.#features.eventIndex) this.#used.storeU16(0, VIRTQ_USED_F_NO_NOTIFY);
  }

  #refill(): boolean {
    if (this.#nextAvailable !== this.#seenAvailable) return true;
    const index = this.#available.loadU16(INDEX_OFFSET);
    const fresh = (index - this.#nextAvailable) & 0xffff;
    if (fresh === 0) return false;
    if (fresh > this.size) return this.#refuse("the available index moved by more than the queue's size");
    this.#seenAvailable = index;
    return true;
  }

  #walk(table: GuestWindow, entries: number, first: number, chain: DescriptorChain, indirect: boolean): boolean {
    let index = first;
    // A table may be as large as the guest's memory, but a chain of empty buffers is not followed for ever.
    const steps = Math.min(entries, chain.capacity);
    for (let step = 0; step < steps; step++) {
      const base = index * DESCRIPTOR_BYTES;
      const low = table.u32(base);
      const high = table.u32(base + 4);
      const length = table.u32(base + 8);
      const flagsAndNext = table.u32(base + 12);
      const address = high < 2 ** 21 ? high * 2 ** 32 + low : Number.MAX_SAFE_INTEGER;
      if ((flagsAndNext & VIRTQ_DESC_F_INDIRECT) !== 0) {
        const refused = indirect || !this.#features.indirect || (flagsAndNext & VIRTQ_DESC_F_NEXT) !== 0;
        if (refused) return this.#refuse("an indirect descriptor without the feature, inside a table, or with a next");
        return this.#walkIndirect(address, length, chain);
      }
      const refused = chain.append(address, length, (flagsAndNext & VIRTQ_DESC_F_WRITE) !== 0);
      if (refused !== undefined) return this.#refuse(refused);
      if ((flagsAndNext & VIRTQ_DESC_F_NEXT) === 0) return true;
      index = flagsAndNext >>> 16;
      if (index >= entries) return this.#refuse("a chain's next is outside of its table");
    }
    return this.#refuse("a chain is longer than its table or the device's limit, or loops");
  }

  #walkIndirect(address: number, length: number, chain: DescriptorChain): boolean {
    const valid = length > 0 && length % DESCRIPTOR_BYTES === 0;
    const table = valid ? this.#memory.window(address, length) : undefined;
    if (table === undefined)
      return this.#refuse("an indirect table is empty, not a multiple of 16 bytes, or not in memory");
    return this.#walk(table, length / DESCRIPTOR_BYTES, 0, chain, true);
  }

  #refuse(fault: QueueFault): false {
    this.latch(fault);
    return false;
  }
}
