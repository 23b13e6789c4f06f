/** The device reads each word of the guest once: what it has checked is what it uses. */
import { expect, test } from "vitest";
import type { VirtioBlkOptions } from "../src/create-device.ts";
import { GuestMemory, GuestWindow } from "../src/guest-memory.ts";
import { REQUEST_HEADER_BYTES } from "../src/request.ts";
import type { ServedQueue } from "../src/served-queue.ts";
import { OneThread } from "./one-thread.ts";

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;

/** Guest memory that counts how often the device reads each byte. Views of data are not reads of words. */
class CountingMemory extends GuestMemory {
  readonly counts: Map<number, number> = new Map();

  #note(address: number, length: number): void {
    for (let at = address; at < address + length; at++) this.counts.set(at, (this.counts.get(at) ?? 0) + 1);
  }

  override window(address: number, length: number): GuestWindow | undefined {
    const inner = super.window(address, length);
    return inner && new CountingWindow(inner, (offset, bytes) => this.#note(address + offset, bytes));
  }

  override copy(address: number, length: number, target: Uint8Array, position: number): boolean {
    this.#note(address, length);
    return super.copy(address, length, target, position);
  }
}

class CountingWindow extends GuestWindow {
  readonly #inner: GuestWindow;
  readonly #note: (offset: number, bytes: number) => void;

  constructor(inner: GuestWindow, note: (offset: number, bytes: number) => void) {
    super(undefined as never, 0);
    this.#inner = inner;
    this.#note = note;
  }

  override u8(offset: number): number {
    this.#note(offset, 1);
    return this.#inner.u8(offset);
  }
  override u16(offset: number): number {
    this.#note(offset, 2);
    return this.#inner.u16(offset);
  }
  override u32(offset: number): number {
    this.#note(offset, 4);
    return this.#inner.u32(offset);
  }
  override loadU16(offset: number): number {
    this.#note(offset, 2);
    return this.#inner.loadU16(offset);
  }
  override loadU32(offset: number): number {
    this.#note(offset, 4);
    return this.#inner.loadU32(offset);
  }
  override setU8(offset: number, value: number): void {
    this.#inner.setU8(offset, value);
  }
  override setU16(offset: number, value: number): void {
    this.#inner.setU16(offset, value);
  }
  override setU32(offset: number, value: number): void {
    this.#inner.setU32(offset, value);
  }
  override storeU16(offset: number, value: number): void {
    this.#inner.storeU16(offset, value);
  }
  override storeU32(offset: number, value: number): void {
    this.#inner.storeU32(offset, value);
  }
}

interface Bench {
  readonly guest: OneThread;
  readonly memory: CountingMemory;
  readonly served: ServedQueue;
}

/** A device whose queue is served through counting memory. */
function bench(device: Partial<VirtioBlkOptions> = {}): Bench {
  const guest = new OneThread({ queueSize: 16, device });
  const memory = new CountingMemory(guest.device.memory);
  return { guest, memory, served: guest.serveByHand(memory) };
}

test.each([
  ["a read", 0],
  ["a write", 1],
  ["a discard", 11],
  ["a write zeroes", 13],
])("%s reads every descriptor, the ring entry, the header and the segment exactly once", (_, type) => {
  const { guest, memory, served } = bench();
  const ring = guest.ring();
  const { descriptorAddress, driverAddress } = guest.plans[0]!.layout;
  const table = guest.spare + 4096;
  const header = guest.spare + 3;
  const segment = guest.spare + 100;
  guest.header(header, type);
  guest.bytes(segment, 16).fill(0);
  guest.bytes(segment, 16)[8] = 1;
  const length = type >= 11 ? 16 : 512;
  // Two plain descriptors, the second of them leading to a table of two.
  ring.setDescriptor(2, { address: header, length: REQUEST_HEADER_BYTES, flags: NEXT, next: 7 });
  ring.setDescriptor(7, { address: table, length: 32, flags: INDIRECT });
  const entries = new DataView(new ArrayBuffer(32));
  entries.setBigUint64(0, BigInt(segment), true);
  entries.setUint32(8, length, true);
  entries.setUint16(12, NEXT | (type === 0 ? WRITE : 0), true);
  entries.setUint16(14, 1, true);
  entries.setBigUint64(16, BigInt(guest.spare + 700), true);
  entries.setUint32(24, 1, true);
  entries.setUint16(28, WRITE, true);
  guest.bytes(table, 32).set(new Uint8Array(entries.buffer));
  ring.offer(2);
  ring.publish();
  memory.counts.clear();
  served.poll(true);
  expect(ring.takeUsed()?.id).toBe(2);
  expect(guest.bytes(guest.spare + 700, 1)[0]).toBe(0);
  const range = (address: number, count: number): number[] =>
    Array.from({ length: count }, (__, index) => memory.counts.get(address + index) ?? 0);
  const once = (count: number): number[] => new Array<number>(count).fill(1);
  expect(range(descriptorAddress + 2 * 16, 16), "first descriptor").toEqual(once(16));
  expect(range(descriptorAddress + 7 * 16, 16), "second descriptor").toEqual(once(16));
  expect(range(table, 32), "table").toEqual(once(32));
  expect(range(driverAddress + 4, 2), "ring entry").toEqual(once(2));
  expect(range(header, 16), "header").toEqual(once(16));
  if (type >= 11) expect(range(segment, 16), "segment").toEqual(once(16));
  else expect(range(segment, 512), "data").toEqual(new Array<number>(512).fill(0));
  // And it reads nothing that is not its business.
  expect(range(guest.spare + 700, 1), "status").toEqual([0]);
});

test.each([
  ["a read", 0],
  ["a write", 1],
  ["a discard", 11],
  ["a write zeroes", 13],
])("on a packed ring %s reads every descriptor, the header and the segment exactly once", (_, type) => {
  const { guest, memory, served } = bench({ packed: true });
  const ring = guest.packedRing();
  const { descriptorAddress } = guest.plans[0]!.layout;
  const [header, segment, status, table] = [3, 100, 700, 4096].map((offset) => guest.spare + offset) as [
    number,
    number,
    number,
    number,
  ];
  guest.header(header, type);
  guest.bytes(segment, 16).fill(0);
  guest.bytes(segment, 16)[8] = 1;
  const length = type >= 11 ? 16 : 512;
  const chain = [
    { address: header, length: 16 },
    { address: segment, length, flags: type === 0 ? WRITE : 0 },
    { address: status, length: 1, flags: WRITE },
  ];
  const window = guest.memory.window(table, 48)!;
  chain.forEach((entry, index) => {
    ring.writeTableEntry(window, index, entry, index === 2);
  });
  ring.offerChain(4, chain);
  ring.offerChain(5, [{ address: table, length: 48, flags: INDIRECT }]);
  ring.publish();
  memory.counts.clear();
  served.poll(true);
  expect([ring.takeUsed()?.id, ring.takeUsed()?.id]).toEqual([4, 5]);
  const range = (address: number, count: number): number[] =>
    Array.from({ length: count }, (__, index) => memory.counts.get(address + index) ?? 0);
  const times = (count: number, often: number): number[] => new Array<number>(count).fill(often);
  for (const index of [0, 1, 2, 3]) {
    const at = descriptorAddress + 16 * index;
    expect(range(at, 12), "address and length").toEqual(times(12, 1));
    // Only the last one's id counts.
    expect(range(at + 12, 2), "id").toEqual(times(2, index >= 2 ? 1 : 0));
    expect(range(at + 14, 2), "flags").toEqual(times(2, 1));
  }
  for (const index of [0, 1, 2]) {
    expect(range(table + 16 * index, 12)).toEqual(times(12, 1));
    expect(range(table + 16 * index + 12, 4)).toEqual([0, 0, 1, 1]);
  }
  // Both chains have the same header and segment.
  expect(range(header, 16), "header").toEqual(times(16, 2));
  expect(range(segment, 16), "segment").toEqual(times(16, type >= 11 ? 2 : 0));
  expect(range(status, 1), "status").toEqual([0]);
});

test("the counting counts", () => {
  const memory = new CountingMemory(GuestMemory.create(4096));
  const window = memory.window(16, 16);
  window?.u32(4);
  window?.u16(6);
  expect([20, 21, 22, 23, 24].map((at) => memory.counts.get(at) ?? 0)).toEqual([1, 1, 2, 2, 0]);
});
