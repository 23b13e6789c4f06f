/**
 * A guest's use of one virtqueue on one thread: many requests in flight, as coroutines (`read`, `write`, ...) or slot
 * by slot (`submit`, `commit`, `collect`). The buffers are prepared once; a request costs a few stores.
 */
import { assert, BlockError, type Co, type Condition, SECTOR_SIZE } from "@spindle/base";
import { DEVICE_ID_BYTES } from "../device.ts";
import { DeviceState, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_NEEDS_RESET } from "../device-state.ts";
import { VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC } from "../features.ts";
import { GuestMemory, type GuestWindow } from "../guest-memory.ts";
import { MmioTransport } from "../mmio.ts";
import { DESCRIPTOR_BYTES, VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE } from "../queue-layout.ts";
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
import { DriverRing } from "./driver-ring.ts";
import { type GuestHandle, type GuestQueuePlan, SLOT_BYTES } from "./guest-driver.ts";

/** Places inside of a slot. */
const SEGMENT = REQUEST_HEADER_BYTES;
const STATUS = 32;
const TABLE = 48;
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
  readonly #tables: GuestWindow[] = [];
  readonly #buffers: Uint8Array[] = [];
  readonly #free: number[] = [];
  readonly #done: Uint8Array;

  /**
   * @param thread the thread that waits: its doorbell is rung for used buffers. Without one the queue is polled.
   */
  constructor(guest: GuestHandle, index: number, thread?: { readonly index: number }) {
    const plan = guest.queues.find((queue) => queue.index === index);
    assert(plan !== undefined, `the guest has no virtqueue ${index}`);
    this.#plan = plan;
    this.#state = new DeviceState(guest.device);
    this.#registers = new MmioTransport(guest.device);
    this.#indirect = (guest.features.low & VIRTIO_F_INDIRECT_DESC) !== 0;
    const memory = new GuestMemory(guest.device.memory);
    this.#ring = new DriverRing(memory, plan.layout, (guest.features.low & VIRTIO_F_EVENT_IDX) !== 0);
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
        const slot = this.#indirect ? used.id : used.id / DESCRIPTORS_PER_REQUEST;
        assert(slot < this.depth && this.#done[slot] === 0, "the device used what it was not given");
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
    const { type, offset = 0, length = 0, unmap = false } = request;
    const ranged = type === VIRTIO_BLK_T_DISCARD || type === VIRTIO_BLK_T_WRITE_ZEROES;
    if (!ranged) this.#requireFits(slot, length);
    const memory = this.#slots[slot] as GuestWindow;
    memory.setU32(0, type);
    memory.setU64(8, ranged ? 0 : offset / SECTOR_SIZE);
    memory.setU8(STATUS, STATUS_UNWRITTEN);
    if (ranged) {
      memory.setU64(SEGMENT, offset / SECTOR_SIZE);
      memory.setU32(SEGMENT + 8, length / SECTOR_SIZE);
      memory.setU32(SEGMENT + 12, unmap ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0);
    }
    const address = ranged ? this.#slotAddress(slot) + SEGMENT : this.#plan.dataAddress + slot * this.#plan.dataBytes;
    this.#describeData(slot, address, ranged ? SEGMENT_BYTES : length, type);
    this.#ring.offer(this.#indirect ? slot : slot * DESCRIPTORS_PER_REQUEST);
  }

  /** Sets the middle descriptor; without data the header's descriptor leads past it. */
  #describeData(slot: number, address: number, length: number, type: number): void {
    const table = this.#tables[slot] as GuestWindow;
    const first = this.#firstDescriptor(slot);
    table.setU16(14, length > 0 ? first + 1 : first + 2);
    if (length === 0) return;
    const writable = type === VIRTIO_BLK_T_IN || type === VIRTIO_BLK_T_GET_ID;
    table.setU64(DESCRIPTOR_BYTES, address);
    table.setU32(DESCRIPTOR_BYTES + 8, length);
    table.setU16(DESCRIPTOR_BYTES + 12, VIRTQ_DESC_F_NEXT | (writable ? VIRTQ_DESC_F_WRITE : 0));
  }

  /** Writes what stays the same for every request of a slot. */
  #prepareSlot(memory: GuestMemory, slot: number): void {
    const { layout, dataAddress, dataBytes } = this.#plan;
    const address = this.#slotAddress(slot);
    const tableAddress = this.#indirect
      ? address + TABLE
      : layout.descriptorAddress + slot * DESCRIPTORS_PER_REQUEST * DESCRIPTOR_BYTES;
    const window = memory.window(address, SLOT_BYTES);
    const table = memory.window(tableAddress, DESCRIPTORS_PER_REQUEST * DESCRIPTOR_BYTES);
    const views: Uint8Array[] = [];
    memory.translate(dataAddress + slot * dataBytes, dataBytes, views);
    const [buffer] = views;
    assert(window && table && buffer?.length === dataBytes, "the guest's buffers are outside of its memory");
    this.#slots.push(window);
    this.#tables.push(table);
    this.#buffers.push(buffer);
    const first = this.#firstDescriptor(slot);
    table.setU64(0, address);
    table.setU32(8, REQUEST_HEADER_BYTES);
    table.setU16(12, VIRTQ_DESC_F_NEXT);
    table.setU16(DESCRIPTOR_BYTES + 14, first + 2);
    table.setU64(2 * DESCRIPTOR_BYTES, address + STATUS);
    table.setU32(2 * DESCRIPTOR_BYTES + 8, 1);
    table.setU16(2 * DESCRIPTOR_BYTES + 12, VIRTQ_DESC_F_WRITE);
    if (!this.#indirect) return;
    const length = DESCRIPTORS_PER_REQUEST * DESCRIPTOR_BYTES;
    this.#ring.setDescriptor(slot, { address: tableAddress, length, flags: VIRTQ_DESC_F_INDIRECT });
  }

  #slotAddress(slot: number): number {
    return this.#plan.slotsAddress + slot * SLOT_BYTES;
  }

  /** The number by which descriptors of the slot name each other. */
  #firstDescriptor(slot: number): number {
    return this.#indirect ? 0 : slot * DESCRIPTORS_PER_REQUEST;
  }
}
