/**
 * One virtqueue as the front end sets it up: size, addresses, where it goes on, and its eventfds. It is served while all
 * is there and the driver has enabled it; every change stops the queue thread first.
 */
import { readlinkSync } from "node:fs";
import { BlockError } from "@spindle/base";
import { sharingCalls } from "@spindle/host-node";
import { type DeviceState, type QueueLayout, type QueuePosition, ringFeatures } from "@spindle/virtio-blk";
import { InflightLog } from "./inflight-log.ts";
import type { InflightRegion } from "./inflight-region.ts";
import type { MemoryTable } from "./memory-table.ts";
import type { VringAddresses } from "./message.ts";
import type { QueueControl } from "./queue-control.ts";

/** The used index stands behind the used ring's flags. */
const USED_INDEX_OFFSET = 2;

export class Vring {
  readonly #state: DeviceState;
  readonly #index: number;
  readonly #control: QueueControl;
  /** Numbers that stay while what they mean changes: the queue thread may be using them. */
  readonly #call: number = sharingCalls().createEvent();
  readonly #error: number = sharingCalls().createEvent();
  #kick: number | undefined;
  #size = 0;
  #addresses: VringAddresses | undefined;
  /** Where the queue goes on, as messages say it. */
  #base = 0;
  #enabled = false;
  #serving = false;

  constructor(state: DeviceState, index: number, control: QueueControl) {
    this.#state = state;
    this.#index = index;
    this.#control = control;
  }

  /** Whether the queue thread uses guest memory. */
  get serving(): boolean {
    return this.#serving;
  }

  /**
   * Where the queue goes on, while it is not being served: of a split ring the next entry of the available ring, of a
   * packed ring the next place and, in the upper half, that of the next used descriptor.
   */
  get base(): number {
    return this.#base;
  }

  set size(size: number) {
    this.#size = size;
  }
  set addresses(addresses: VringAddresses) {
    this.#addresses = addresses;
  }
  set base(base: number) {
    this.#base = base;
  }
  set enabled(enabled: boolean) {
    this.#enabled = enabled;
  }

  /** Takes the eventfd of the driver's kicks, or takes it away. */
  setKick(fd: number | undefined): void {
    if (this.#kick !== undefined) sharingCalls().close(this.#kick);
    this.#kick = fd;
  }

  /** Takes the eventfd for used buffers; may be called while the queue is being served. */
  setCall(fd: number | undefined): void {
    replaceEvent(this.#call, fd);
  }

  /** Takes the eventfd for a broken queue; may be called while the queue is being served. */
  setError(fd: number | undefined): void {
    replaceEvent(this.#error, fd);
  }

  /** Stops serving: all requests have ended and are on the used ring, and no view of guest memory is left. */
  stop(): void {
    if (!this.#serving) return;
    this.#control.stop();
    this.#serving = false;
    const queue = this.#queue;
    const { nextAvailable, nextUsed } = queue.position;
    this.#base = this.#packed ? nextAvailable + nextUsed * 2 ** 16 : nextAvailable;
    queue.disable();
  }

  /** Lets the queue be served if everything is there. */
  startIfReady(memory: MemoryTable | undefined, region: InflightRegion | undefined): void {
    if (this.#serving || !this.#enabled || this.#kick === undefined || this.#size === 0) return;
    const layout = memory === undefined ? undefined : this.#layout(memory);
    if (memory === undefined || layout === undefined) return;
    const usedIndex = this.#packed ? 0 : this.#usedIndex(memory, layout);
    const inflight = this.#inflight(region, usedIndex);
    if (inflight?.left !== undefined) this.#base = (usedIndex + inflight.left.length) % 2 ** 16;
    const queue = this.#queue;
    queue.setLayout(layout);
    queue.enable(this.#position(usedIndex));
    this.#control.start({
      memory: memory.pieces,
      kick: this.#kick,
      call: this.#call,
      error: this.#error,
      inflight: inflight && { place: inflight.place, left: inflight.left ?? [] },
    });
    this.#serving = true;
  }

  /** The front end is gone: stops, and forgets all that it has set up. */
  reset(): void {
    this.stop();
    this.setKick(undefined);
    this.setCall(undefined);
    this.setError(undefined);
    this.#size = 0;
    this.#addresses = undefined;
    this.#base = 0;
    this.#enabled = false;
  }

  /** The queue will not be served again. */
  close(): void {
    this.reset();
    sharingCalls().close(this.#call);
    sharingCalls().close(this.#error);
  }

  get #packed(): boolean {
    return ringFeatures(this.#state.driverFeatures).packed;
  }

  #position(usedIndex: number): QueuePosition {
    const nextAvailable = this.#base % 2 ** 16;
    return { nextAvailable, nextUsed: this.#packed ? Math.floor(this.#base / 2 ** 16) : usedIndex };
  }

  #usedIndex(memory: MemoryTable, { deviceAddress }: QueueLayout): number {
    // A ring that is not wholly memory is refused by the queue thread, and the driver hears of it.
    return memory.read16(deviceAddress + USED_INDEX_OFFSET) ?? 0;
  }

  /** Where requests are logged; `left` are those that an earlier back end has left behind, if there was one. */
  #inflight(region: InflightRegion | undefined, usedIndex: number) {
    // The places of a packed ring cannot be told from its memory: the front end has to know them.
    const place = this.#packed ? undefined : region?.place(this.#index, this.#size);
    return place && { place, left: new InflightLog(place).recover(usedIndex) };
  }

  get #queue() {
    const queue = this.#state.queues[this.#index];
    if (queue === undefined) throw new BlockError("EINVAL", `there is no virtqueue ${this.#index}`);
    return queue;
  }

  /** The layout in guest-physical addresses; undefined when the front end has shared no memory there. */
  #layout(memory: MemoryTable): QueueLayout | undefined {
    if (this.#addresses === undefined) return undefined;
    const { descriptors, available, used } = this.#addresses;
    const descriptorAddress = memory.guestAddressOf(descriptors);
    const driverAddress = memory.guestAddressOf(available);
    const deviceAddress = memory.guestAddressOf(used);
    if (descriptorAddress === undefined || driverAddress === undefined || deviceAddress === undefined) return undefined;
    return { size: this.#size, descriptorAddress, driverAddress, deviceAddress };
  }
}

/** Refuses what is no eventfd: a file that is always readable would keep a queue thread busy, and a pipe could block it. */
export function requireEvent(fd: number): void {
  if (readlinkSync(`/proc/self/fd/${fd}`) !== "anon_inode:[eventfd]")
    throw new BlockError("EINVAL", "a queue's descriptor is no eventfd");
}

function replaceEvent(kept: number, fd: number | undefined): void {
  const by = fd ?? sharingCalls().createEvent();
  sharingCalls().replace(kept, by);
  sharingCalls().close(by);
}
