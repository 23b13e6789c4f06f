/**
 * A guest's use of one virtqueue on one thread: many requests in flight, as coroutines (`read`, `write`, ...) or slot
 * by slot (`submit`, `commit`, `collect`). The buffers are prepared once; a request costs a few stores.
 */
import { assert, BlockError, ByteView, type Co, type Condition, SECTOR_SIZE } from "@spindle/base";
import { DEVICE_ID_BYTES } from "../device.ts";
import { DeviceState, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_NEEDS_RESET } from "../device-state.ts";
import { ringFeatures } from "../features.ts";
import { GuestMemory, type GuestWindow } from "../guest-memory.ts";
import { MmioTransport } from "../mmio.ts";
import { DESCRIPTOR_BYTES, VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_WRITE } from "../queue-layout.ts";
import * as mmio from "../registers.ts";
import {
  REQUEST_HEADER_BYTES,
  SEGMENT_BYTES,
  VIRTIO_BLK_T_DISCARD,
  VIRTIO_BLK_T_FLUSH,
  VIRTIO_BLK_T_GET_ID,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
  VIRTIO_BLK_T_WRITE_ZEROES,
  VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
} from "../request.ts";
import { errorOfStatus } from "../status.ts";
import type { Descriptor, DriverRing } from "./driver-ring.ts";
import { type GuestHandle, type GuestQueuePlan, SLOT_BYTES } from "./guest-driver.ts";
import { PackedDriverRing } from "./packed-driver-ring.ts";
import { SplitDriverRing } from "./split-driver-ring.ts";

/** Places inside of a slot: the indirect tables of a request with data and of one without stand behind the rest. */
const STATUS = 32;
const TABLE = 48;
const BARE_TABLE = 96;
/** A request is a header, data, and a status. */
const DESCRIPTORS_PER_REQUEST = 3;
/** What the status byte holds until the device has written it. */
const STATUS_UNWRITTEN = 0xff;

/** A request to submit. Offsets and lengths are bytes, multiples of 512. */
export interface GuestRequest {
  readonly type: number;
  readonly offset?: number;
  /** Bytes of data, or of the range to discard or zero. */
  readonly length?: number;
  /** For write zeroes. */
  readonly unmap?: boolean;
  /** Several ranges to discard or zero, instead of the one that `offset`, `length` and `unmap` describe. */
  readonly ranges?: readonly GuestRange[];
}

export interface GuestRange {
  readonly offset: number;
  readonly length: number;
  readonly unmap?: boolean;
}

export class GuestQueue {
  /** How many requests can be in flight. */
  readonly depth: number;
  readonly #plan: GuestQueuePlan;
  readonly #state: DeviceState;
  readonly #registers: mmio.Registers;
  readonly #ring: DriverRing;
  readonly #indirect: boolean;
  readonly #interrupts: boolean;
  readonly #slots: GuestWindow[] = [];
  readonly #chains: SlotChains[] = [];
  /** With VIRTIO_F_IN_ORDER, the slots in flight in the order in which they must come back. */
  readonly #order: number[] | undefined;
  readonly #buffers: Uint8Array[] = [];
  readonly #free: number[] = [];
  readonly #done: Uint8Array;

  /**
   * @param thread the thread that waits: its doorbell is rung for used buffers. Without one the queue is polled.
   * @param registers the device's, where they are not at hand through its state
   */
  constructor(
    guest: GuestHandle,
    index: number,
    thread?: { readonly index: number },
    registers: mmio.Registers = new MmioTransport(guest.device),
  ) {
    const plan = guest.queues.find((queue) => queue.index === index);
    assert(plan !== undefined, `the guest has no virtqueue ${index}`);
    this.#plan = plan;
    this.#state = new DeviceState(guest.device);
    this.#registers = registers;
    const features = ringFeatures(guest.features);
    this.#indirect = features.indirect;
    this.#order = features.inOrder ? [] : undefined;
    const memory = new GuestMemory(guest.device.memory);
    this.#ring = features.packed
      ? new PackedDriverRing(memory, plan.layout, features)
      : new SplitDriverRing(memory, plan.layout, features, features.indirect ? 1 : DESCRIPTORS_PER_REQUEST);
    this.depth = this.#indirect ? plan.layout.size : Math.floor(plan.layout.size / DESCRIPTORS_PER_REQUEST);
    this.#done = new Uint8Array(this.depth);
    this.#interrupts = thread !== undefined;
    for (let slot = this.depth - 1; slot >= 0; slot--) this.#free.push(slot);
    for (let slot = 0; slot < this.depth; slot++) this.#prepareSlot(memory, slot);
    if (thread === undefined) this.#ring.suppressInterrupts();
    else {
      this.#state.queues[index]!.interruptThread = thread.index;
      this.#ring.requestInterrupts();
    }
  }

  /** The data of a slot in guest memory. */
  buffer(slot: number): Uint8Array {
    return this.#buffers[slot] as Uint8Array;
  }

  /** Puts a request on the ring, to be seen after `commit`. @returns its slot, or -1 when all are in use. */
  submit(request: GuestRequest): number {
    const slot = this.#free.pop();
    if (slot === undefined) return -1;
    this.#place(slot, request);
    return slot;
  }

  /** Shows the device what was submitted, and kicks it when it wants that. */
  commit(): void {
    if (this.#ring.publish()) this.#registers.write(mmio.VIRTIO_MMIO_QUEUE_NOTIFY, this.#plan.index);
  }

  /** Takes what the device has used. May be called at any time. @returns how many requests ended. */
  collect(): number {
    let collected = 0;
    while (this.#ring.hasUsed) {
      for (let used = this.#ring.takeUsed(); used !== undefined; used = this.#ring.takeUsed()) {
        const slot = used.id;
        assert(slot < this.depth && this.#done[slot] === 0, "the device used what it was not given");
        assert(this.#order === undefined || this.#order.shift() === slot, "the device used out of order");
        this.#done[slot] = 1;
        collected += 1;
      }
      if (!this.#interrupts) continue;
      this.#registers.write(mmio.VIRTIO_MMIO_INTERRUPT_ACK, 1);
      this.#ring.requestInterrupts();
    }
    return collected;
  }

  /** Whether the request in a slot has ended and was collected. */
  ended(slot: number): boolean {
    return this.#done[slot] === 1;
  }

  /** Frees a slot whose request has ended. @returns its status. */
  finish(slot: number): number {
    assert(this.ended(slot), "a slot is freed when its request has ended");
    this.#done[slot] = 0;
    this.#free.push(slot);
    return (this.#slots[slot] as GuestWindow).u8(STATUS);
  }

  /** Reads `target.length` bytes, at most as many as a buffer holds. */
  *read(offset: number, target: Uint8Array): Co<void> {
    const slot = yield* this.#run({ type: VIRTIO_BLK_T_IN, offset, length: target.length });
    target.set(this.buffer(slot).subarray(0, target.length));
    this.#finishOrThrow(slot, "read");
  }

  /** Writes all of `source`, at most as much as a buffer holds. */
  *write(offset: number, source: Uint8Array): Co<void> {
    const slot = yield* this.#run({ type: VIRTIO_BLK_T_OUT, offset, length: source.length }, source);
    this.#finishOrThrow(slot, "write");
  }

  *writeZeroes(offset: number, length: number, unmap = false): Co<void> {
    const slot = yield* this.#run({ type: VIRTIO_BLK_T_WRITE_ZEROES, offset, length, unmap });
    this.#finishOrThrow(slot, "write zeroes");
  }

  *discard(offset: number, length: number): Co<void> {
    const slot = yield* this.#run({ type: VIRTIO_BLK_T_DISCARD, offset, length });
    this.#finishOrThrow(slot, "discard");
  }

  /** Discards, or zeroes, several ranges with one request: at most 256. */
  *ranges(type: number, ranges: readonly GuestRange[]): Co<void> {
    const slot = yield* this.#run({ type, ranges });
    this.#finishOrThrow(slot, "discard or zero ranges");
  }

  *flush(): Co<void> {
    const slot = yield* this.#run({ type: VIRTIO_BLK_T_FLUSH });
    this.#finishOrThrow(slot, "flush");
  }

  /** The 20 bytes that identify the device. */
  *getId(): Co<Uint8Array> {
    const slot = yield* this.#run({ type: VIRTIO_BLK_T_GET_ID, length: DEVICE_ID_BYTES });
    const id = this.buffer(slot).slice(0, DEVICE_ID_BYTES);
    this.#finishOrThrow(slot, "get id");
    return id;
  }

  /** Submits a request when a slot is free, and waits for its end. */
  *#run(request: GuestRequest, source?: Uint8Array): Co<number> {
    const free = this.#condition(() => this.#free.length > 0);
    while (!free.ready()) yield free;
    this.#requireRunning();
    const slot = this.#free.pop() as number;
    if (source !== undefined) {
      this.#requireFits(slot, source.length);
      this.buffer(slot).set(source);
    }
    this.#place(slot, request);
    this.commit();
    const ended = this.#condition(() => this.ended(slot));
    if (!ended.ready()) yield ended;
    if (!this.ended(slot)) this.#requireRunning();
    return slot;
  }

  /** A condition that also ends when the device does. Collecting changes nothing for those who wait beside it. */
  #condition(ready: () => boolean): Condition {
    return {
      kind: "condition",
      ready: () => {
        this.collect();
        return ready() || !this.#running;
      },
    };
  }

  get #running(): boolean {
    const bits = VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_NEEDS_RESET;
    return (this.#state.status & bits) === VIRTIO_CONFIG_S_DRIVER_OK;
  }

  #requireRunning(): void {
    if (!this.#running) throw new BlockError("EIO", "the device was reset or needs a reset");
  }

  #requireFits(slot: number, length: number): void {
    if (length <= this.#plan.dataBytes) return;
    this.#free.push(slot);
    throw new BlockError("EINVAL", `a request of ${length} bytes is larger than the guest's buffers`);
  }

  #finishOrThrow(slot: number, operation: string): void {
    const error = errorOfStatus(this.finish(slot), operation);
    if (error !== undefined) throw error;
  }

  #place(slot: number, request: GuestRequest): void {
    const { type, offset = 0, length = 0 } = request;
    const ranged = type === VIRTIO_BLK_T_DISCARD || type === VIRTIO_BLK_T_WRITE_ZEROES;
    const dataLength = ranged ? this.#placeRanges(slot, request) : length;
    this.#requireFits(slot, dataLength);
    const memory = this.#slots[slot] as GuestWindow;
    memory.setU32(0, type);
    // The sector is 0 but for reads and writes.
    memory.setU64(8, type === VIRTIO_BLK_T_IN || type === VIRTIO_BLK_T_OUT ? offset / SECTOR_SIZE : 0);
    memory.setU8(STATUS, STATUS_UNWRITTEN);
    this.#order?.push(slot);
    this.#ring.offerChain(slot, this.#describe(slot, dataLength, type));
  }

  /** Writes the segments of a request into its data buffer. @returns their bytes. */
  #placeRanges(slot: number, request: GuestRequest): number {
    const { offset = 0, length = 0, unmap = false } = request;
    const ranges = request.ranges ?? [{ offset, length, unmap }];
    this.#requireFits(slot, ranges.length * SEGMENT_BYTES);
    const { buffer, byteOffset } = this.buffer(slot);
    const view = new ByteView(new Uint8Array(buffer, byteOffset, ranges.length * SEGMENT_BYTES));
    ranges.forEach((range, index) => {
      view.setU64le(SEGMENT_BYTES * index, range.offset / SECTOR_SIZE);
      view.setU32le(SEGMENT_BYTES * index + 8, range.length / SECTOR_SIZE);
      view.setU32le(SEGMENT_BYTES * index + 12, range.unmap === true ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0);
    });
    return ranges.length * SEGMENT_BYTES;
  }

  /** The chain of a request, with its data described. */
  #describe(slot: number, length: number, type: number): readonly Descriptor[] {
    const chains = this.#chains[slot] as SlotChains;
    if (length === 0) return this.#indirect ? chains.bareTable : chains.bare;
    const { data } = chains;
    data.length = length;
    data.flags = type === VIRTIO_BLK_T_IN || type === VIRTIO_BLK_T_GET_ID ? VIRTQ_DESC_F_WRITE : 0;
    if (!this.#indirect) return chains.whole;
    this.#ring.writeTableEntry(chains.window, 1, data, false);
    return chains.table;
  }

  /** Writes what stays the same for every request of a slot. */
  #prepareSlot(memory: GuestMemory, slot: number): void {
    const { dataAddress, dataBytes } = this.#plan;
    const address = this.#slotAddress(slot);
    const slotWindow = memory.window(address, SLOT_BYTES);
    const window = memory.window(address + TABLE, DESCRIPTORS_PER_REQUEST * DESCRIPTOR_BYTES);
    const bareWindow = memory.window(address + BARE_TABLE, SLOT_BYTES - BARE_TABLE);
    const views: Uint8Array[] = [];
    memory.translate(dataAddress + slot * dataBytes, dataBytes, views);
    const [buffer] = views;
    assert(slotWindow && window && bareWindow && buffer?.length === dataBytes, "the guest's buffers are not in memory");
    this.#slots.push(slotWindow);
    this.#buffers.push(buffer);
    const header = { address, length: REQUEST_HEADER_BYTES, flags: 0 };
    const data = { address: dataAddress + slot * dataBytes, length: 0, flags: 0 };
    const status = { address: address + STATUS, length: 1, flags: VIRTQ_DESC_F_WRITE };
    const whole = [header, data, status];
    const bare = [header, status];
    this.#chains.push({
      data,
      whole,
      bare,
      window,
      table: [indirect(address + TABLE, whole.length)],
      bareTable: [indirect(address + BARE_TABLE, bare.length)],
    });
    if (!this.#indirect) return;
    for (const [place, entry] of whole.entries()) this.#ring.writeTableEntry(window, place, entry, entry === status);
    for (const [place, entry] of bare.entries()) this.#ring.writeTableEntry(bareWindow, place, entry, entry === status);
  }

  #slotAddress(slot: number): number {
    return this.#plan.slotsAddress + slot * SLOT_BYTES;
  }
}

/** The chains of one slot, made once: only the data's length and direction change from request to request. */
interface SlotChains {
  readonly data: { readonly address: number; length: number; flags: number };
  readonly whole: readonly Descriptor[];
  /** Without data. */
  readonly bare: readonly Descriptor[];
  /** The indirect table of `whole`. */
  readonly window: GuestWindow;
  /** One descriptor that leads to the table. */
  readonly table: readonly Descriptor[];
  readonly bareTable: readonly Descriptor[];
}

function indirect(address: number, entries: number): Descriptor {
  return { address, length: entries * DESCRIPTOR_BYTES, flags: VIRTQ_DESC_F_INDIRECT };
}
