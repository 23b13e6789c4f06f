/** A device with two queues for drivers that mean harm, on memory with a border and a hole, and what holds after each case. */
import { until } from "@spindle/base";
import { expect } from "vitest";
import { DeviceState } from "../src/device-state.ts";
import type { GuestQueue } from "../src/driver/guest-queue.ts";
import type { PackedDriverRing } from "../src/driver/packed-driver-ring.ts";
import type { SplitDriverRing } from "../src/driver/split-driver-ring.ts";
import type { QueueFault } from "../src/queue-fault.ts";
import * as mmio from "../src/registers.ts";
import type { CaseMemory, HostileBuffer } from "./hostile-cases.ts";
import { OneThread, pattern } from "./one-thread.ts";

export const MiB = 1024 * 1024;
export const SIZE = 16;
export const NEXT = 1;
export const WRITE = 2;
export const INDIRECT = 4;
export const ID = 5;

/** Another disk of the same thread. */
const neighbour = new OneThread({ queueSize: 4 });
const neighbourQueue = neighbour.queue();
export class HostileRig {
  readonly guest: OneThread;
  readonly state: DeviceState;
  readonly packed: boolean;
  readonly memory: CaseMemory;
  readonly split: SplitDriverRing;
  readonly packedRing: PackedDriverRing;
  readonly #other: GuestQueue;

  constructor(packed: boolean, refused = 0) {
    this.packed = packed;
    const low = 2 * MiB;
    const regions = [
      { guestBase: 0, memory: new SharedArrayBuffer(low), byteOffset: 0, length: low },
      { guestBase: low, memory: new SharedArrayBuffer(MiB), byteOffset: 0, length: MiB },
      { guestBase: low + 2 * MiB, memory: new SharedArrayBuffer(MiB), byteOffset: 0, length: MiB },
    ];
    const options = { queueCount: 2, queueSize: SIZE, refused, device: { packed } };
    this.guest = new OneThread({ ...options, memory: { regions } });
    this.state = new DeviceState(this.guest.device);
    this.split = packed ? (undefined as never) : this.guest.ring();
    this.packedRing = packed ? this.guest.packedRing() : (undefined as never);
    this.#other = this.guest.queue(1);
    const spare = BigInt(this.guest.spare);
    this.memory = {
      regions: regions.map(({ guestBase, length }) => ({ start: BigInt(guestBase), end: BigInt(guestBase + length) })),
      header: spare,
      status: spare + 64n,
      data: spare + 4096n,
      border: BigInt(low),
      holeStart: BigInt(low + MiB),
      holeEnd: BigInt(low + 2 * MiB),
      end: BigInt(low + 3 * MiB),
    };
    this.guest.bytes(this.guest.spare + 64, 1)[0] = 0xff;
  }

  /** Offers buffers as a chain of descriptors. */
  offer(buffers: readonly HostileBuffer[]): void {
    buffers.forEach((buffer, index) => {
      const flags = (buffer.write === true ? WRITE : 0) | (index < buffers.length - 1 ? NEXT : 0);
      this.descriptor(index, buffer, flags);
    });
    this.publish();
  }

  /** Offers buffers as one descriptor that leads to a table. */
  offerTable(buffers: readonly HostileBuffer[]): void {
    const table = this.table(buffers);
    this.descriptor(0, { address: table, length: 16 * buffers.length }, INDIRECT);
    this.publish();
  }

  /** Puts one descriptor on the ring. */
  descriptor(index: number, { address, length }: HostileBuffer, flags: number, next = index + 1): void {
    if (this.packed) this.packedRing.offerDescriptor(ID, { address, length }, flags);
    else this.split.setDescriptor(index, { address, length, flags, next });
  }

  /** Writes a table. @returns its address. */
  table(buffers: readonly HostileBuffer[], more: readonly number[] = []): bigint {
    const at = this.memory.data + 65_536n;
    const window = this.guest.memory.window(Number(at), 16 * Math.max(1, buffers.length))!;
    buffers.forEach(({ address, length, write }, index) => {
      const flags = (write === true ? WRITE : 0) | (more[index] ?? 0);
      window.setU32(16 * index, Number(address % 2n ** 32n));
      window.setU32(16 * index + 4, Number(address / 2n ** 32n));
      window.setU32(16 * index + 8, length);
      if (this.packed) window.setU16(16 * index + 14, flags);
      else {
        window.setU16(16 * index + 12, flags | (index < buffers.length - 1 ? NEXT : 0));
        window.setU16(16 * index + 14, index + 1);
      }
    });
    return at;
  }

  publish(head = 0): void {
    if (this.packed) this.packedRing.publish();
    else {
      this.split.offer(head);
      this.split.publish();
    }
    this.guest.poll();
  }

  header(type: number, sector = 0n): void {
    this.guest.header(this.guest.spare, type, sector);
  }

  takeUsed(): { id: number; length: number } | undefined {
    return this.packed ? this.packedRing.takeUsed() : this.split.takeUsed();
  }

  get fault(): QueueFault | undefined {
    return this.state.queues[0]?.fault;
  }

  expectLatched(fault?: QueueFault): void {
    expect(this.fault).toBeDefined();
    if (fault !== undefined) expect(this.fault).toBe(fault);
    expect(this.takeUsed()).toBeUndefined();
    expect(this.guest.registers.read(mmio.VIRTIO_MMIO_STATUS) & 64).toBe(64);
  }

  expectAnswered(): void {
    expect(this.fault).toBeUndefined();
    expect(this.takeUsed()?.id).toBe(this.packed ? ID : 0);
    expect(this.takeUsed()).toBeUndefined();
  }

  /** What holds after every case. */
  finish(): void {
    const { guest } = this;
    for (let kick = 0; kick < 2; kick++) guest.registers.write(mmio.VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    guest.poll();
    expect(guest.served, "the server lives").toBeUndefined();
    expect(isIdle(guest), "nothing is left to do").toBe(true);
    const bytes = pattern(512, 3);
    // As a driver would see it that ignores the request for a reset.
    const slot = this.#other.submit({ type: 1, offset: 4096, length: 512 });
    this.#other.buffer(slot).set(bytes);
    this.#other.commit();
    guest.poll();
    this.#other.collect();
    expect(this.#other.finish(slot)).toBe(0);
    expect(guest.disk.bytes.subarray(4096, 4608), "the other queue goes on").toEqual(bytes);
    neighbour.runner.run(neighbourQueue.flush());
    guest.start();
    expect(this.fault, "a reset mends the queue").toBeUndefined();
    guest.runner.run(guest.queue().flush());
  }
}

/** Whether every coroutine waits: a thread with nothing but this device would sleep. */
function isIdle(guest: OneThread): boolean {
  let looks = 0;
  try {
    guest.runner.run(until(() => ++looks > 100));
    return false;
  } catch (error) {
    return String(error).includes("deadlock");
  }
}

/** Both forms of rings. */
export const FORMS = [
  ["split", false],
  ["packed", true],
] as const;
