/**
 * The device's side of a packed virtqueue (virtio 1.2 §2.8): one ring of descriptors that driver and device write in
 * turn. Whose a descriptor is, two of its flags say, compared with a wrap counter that turns each time round. As in the
 * split queue each word is read once into private memory: the flags first, because they say whether the rest is there.
 */
import type { DescriptorChain } from "./descriptor-chain.ts";
import type { GuestMemory, GuestWindow } from "./guest-memory.ts";
import type { QueueFault } from "./queue-fault.ts";
import {
  DESCRIPTOR_BYTES,
  openPackedLayout,
  PACKED_FLAGS_OFFSET,
  PACKED_ID_OFFSET,
  type PackedWindows,
  type QueueLayout,
  RING_EVENT_FLAGS_DISABLE,
  RING_EVENT_FLAGS_ENABLE,
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_WRITE,
} from "./queue-layout.ts";
import { availableAt, eventAt, eventPassed, RingPlace, usedFlagsAt } from "./ring-place.ts";
import { firstPosition, type QueuePosition, type RingFeatures, type Virtqueue } from "./virtqueue.ts";

export class PackedQueue implements Virtqueue {
  readonly size: number;
  readonly #memory: GuestMemory;
  readonly #features: RingFeatures;
  readonly #ring: GuestWindow;
  readonly #driverEvents: GuestWindow;
  readonly #deviceEvents: GuestWindow;
  /** The next descriptor to take. */
  readonly #available: RingPlace;
  /** Where the next used descriptor goes. */
  readonly #used: RingPlace;
  /** Descriptors of chains that were taken and not given back. */
  #inFlight: number;
  /** Descriptors of chains that were given back since the driver was last told. */
  #unpublished = 0;
  #fault: QueueFault | undefined;

  private constructor(memory: GuestMemory, size: number, features: RingFeatures, windows: PackedWindows) {
    this.#memory = memory;
    this.size = size;
    this.#features = features;
    this.#ring = windows.ring;
    this.#driverEvents = windows.driverEvents;
    this.#deviceEvents = windows.deviceEvents;
    this.#available = new RingPlace(size);
    this.#used = new RingPlace(size);
    this.#inFlight = 0;
  }

  /** Opens a queue where the driver put it; undefined when the layout is not valid, or no queue can be at `position`. */
  static open(
    memory: GuestMemory,
    layout: QueueLayout,
    features: RingFeatures,
    position: QueuePosition = firstPosition(true),
  ): PackedQueue | undefined {
    const windows = openPackedLayout(memory, layout);
    if (windows === undefined) return undefined;
    const queue = new PackedQueue(memory, layout.size, features, windows);
    return queue.#goTo(position) ? queue : undefined;
  }

  get fault(): QueueFault | undefined {
    return this.#fault;
  }

  get position(): QueuePosition {
    return { nextAvailable: this.#available.word, nextUsed: this.#used.word };
  }

  get hasAvailable(): boolean {
    return this.#fault === undefined && availableAt(this.#flags(this.#available.index), this.#available.wrap);
  }

  latch(fault: QueueFault): void {
    this.#fault ??= fault;
  }

  take(chain: DescriptorChain): boolean {
    if (this.#fault !== undefined) return false;
    const flags = this.#flags(this.#available.index);
    return availableAt(flags, this.#available.wrap) && this.#walk(flags, chain);
  }

  put(head: number, length: number, slots: number): void {
    const base = this.#used.index * DESCRIPTOR_BYTES;
    this.#ring.setU32(base + 8, length);
    this.#ring.setU16(base + PACKED_ID_OFFSET, head);
    // The flags come last: with them the descriptor is the driver's.
    const written = length > 0 ? VIRTQ_DESC_F_WRITE : 0;
    this.#ring.storeU16(base + PACKED_FLAGS_OFFSET, usedFlagsAt(this.#used.wrap) | written);
    this.#used.advance(slots);
    this.#inFlight -= slots;
    this.#unpublished += slots;
  }

  publish(): boolean {
    if (this.#unpublished === 0) return false;
    const moved = this.#unpublished;
    this.#unpublished = 0;
    // As in the split queue, the store of the flags comes before the load of the driver's wish. One load for both of
    // its halves: they belong together.
    const wish = this.#driverEvents.loadU32(0);
    return eventPassed(wish, this.#features.eventIndex, this.#used, moved);
  }

  requestKicks(): void {
    const wish = this.#features.eventIndex ? eventAt(this.#available.word) : RING_EVENT_FLAGS_ENABLE * 0x1_0000;
    this.#deviceEvents.storeU32(0, wish);
  }

  suppressKicks(): void {
    this.#deviceEvents.storeU32(0, RING_EVENT_FLAGS_DISABLE * 0x1_0000);
  }

  #goTo(position: QueuePosition): boolean {
    if (!this.#available.goTo(position.nextAvailable) || !this.#used.goTo(position.nextUsed)) return false;
    const turned = this.#available.wrap === this.#used.wrap ? 0 : this.size;
    this.#inFlight = this.#available.index + turned - this.#used.index;
    return this.#inFlight >= 0 && this.#inFlight <= this.size;
  }

  #flags(index: number): number {
    return this.#ring.loadU16(index * DESCRIPTOR_BYTES + PACKED_FLAGS_OFFSET);
  }

  #walk(first: number, chain: DescriptorChain): boolean {
    chain.reset(0);
    const at = this.#available;
    let flags = first;
    for (let slots = 1; this.#inFlight + slots <= this.size; slots++) {
      const base = at.index * DESCRIPTOR_BYTES;
      at.advance(1);
      const fault = this.#element(base, flags, slots > 1, chain);
      if (fault !== undefined) return this.#refuse(fault);
      if ((flags & VIRTQ_DESC_F_NEXT) === 0) {
        // The id of the last descriptor is the chain's.
        chain.head = this.#ring.u16(base + PACKED_ID_OFFSET);
        chain.slots = slots;
        this.#inFlight += slots;
        return true;
      }
      flags = this.#flags(at.index);
      if (this.#inFlight + slots < this.size && !availableAt(flags, at.wrap))
        return this.#refuse("a chain runs into descriptors that are not available");
    }
    return this.#refuse("more descriptors are available than the ring has");
  }

  /** Adds what one descriptor of the ring describes. @returns the rule that it breaks. */
  #element(base: number, flags: number, chained: boolean, chain: DescriptorChain): QueueFault | undefined {
    const length = this.#ring.u32(base + 8);
    const address = addressAt(this.#ring, base);
    if ((flags & VIRTQ_DESC_F_INDIRECT) === 0) return chain.append(address, length, (flags & VIRTQ_DESC_F_WRITE) !== 0);
    if (chained || !this.#features.indirect || (flags & VIRTQ_DESC_F_NEXT) !== 0)
      return "an indirect descriptor without the feature, inside a table, or with a next";
    return this.#table(address, length, chain);
  }

  /** Adds the buffers of an indirect table, which stand in order: of their flags only the one for writing counts. */
  #table(address: number, length: number, chain: DescriptorChain): QueueFault | undefined {
    const valid = length > 0 && length % DESCRIPTOR_BYTES === 0;
    const table = valid ? this.#memory.window(address, length) : undefined;
    if (table === undefined) return "an indirect table is empty, not a multiple of 16 bytes, or not in memory";
    if (length / DESCRIPTOR_BYTES > chain.capacity)
      return "a chain is longer than its table or the device's limit, or loops";
    for (let base = 0; base < length; base += DESCRIPTOR_BYTES) {
      const writable = (table.u16(base + PACKED_FLAGS_OFFSET) & VIRTQ_DESC_F_WRITE) !== 0;
      const fault = chain.append(addressAt(table, base), table.u32(base + 8), writable);
      if (fault !== undefined) return fault;
    }
    return undefined;
  }

  #refuse(fault: QueueFault): false {
    this.latch(fault);
    return false;
  }
}

function addressAt(table: GuestWindow, base: number): number {
  const high = table.u32(base + 4);
  const low = table.u32(base);
  return high < 2 ** 21 ? high * 2 ** 32 + low : Number.MAX_SAFE_INTEGER;
}
