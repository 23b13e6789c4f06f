/**
 * What a guest that means harm can put on a split ring. Each case ends in an answer on the used ring or with the queue
 * latched; nothing is thrown, no chain is lost without a word, and the other queue goes on.
 */
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { DeviceState } from "../src/device-state.ts";
import type { Descriptor } from "../src/driver/driver-ring.ts";
import type { SplitDriverRing } from "../src/driver/split-driver-ring.ts";
import { VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC } from "../src/features.ts";
import { GuestMemory } from "../src/guest-memory.ts";
import type { QueueFault } from "../src/queue-fault.ts";
import * as mmio from "../src/registers.ts";
import { OneThread, pattern, SPARE_BYTES } from "./one-thread.ts";

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;
const SIZE = 16;

let guest: OneThread;
let ring: SplitDriverRing;
let state: DeviceState;

function begin(refused = 0): void {
  guest = new OneThread({ queueCount: 2, queueSize: SIZE, refused });
  ring = guest.ring(0);
  state = new DeviceState(guest.device);
  guest.header(guest.spare, 0);
  guest.bytes(guest.spare + 64, 1)[0] = 0xff;
}

beforeEach(() => begin());

afterEach(() => {
  expect(guest.served, "the server still runs").toBeUndefined();
  // The other queue works to its full depth, whatever happened to this one: as a device would be seen by a driver that
  // ignores the request for a reset.
  const other = guest.queue(1);
  const bytes = pattern(512, 4);
  const slots = Array.from({ length: other.depth }, (_, index) => {
    const slot = other.submit({ type: 1, offset: index * 512, length: 512 });
    other.buffer(slot).set(bytes);
    return slot;
  });
  other.commit();
  guest.poll();
  other.collect();
  expect(slots.map((slot) => other.finish(slot))).toEqual(slots.map(() => 0));
  expect(guest.disk.bytes.subarray(512, 1024)).toEqual(bytes);
  // And after a reset the device is as new.
  guest.start();
  expect(state.queues[0]?.fault).toBeUndefined();
  expect(guest.runner.run(guest.queue(0).getId()).length).toBe(20);
});

function header(): Descriptor {
  return { address: guest.spare, length: 16, flags: NEXT };
}

function status(): Descriptor {
  return { address: guest.spare + 64, length: 1, flags: WRITE };
}

function data(length = 512): Descriptor {
  return { address: guest.spare + 4096, length, flags: NEXT | WRITE };
}

/** Places descriptors one after the other from `first` on, each pointing to the next unless it says otherwise. */
function place(descriptors: readonly Descriptor[], first = 0): void {
  descriptors.forEach((descriptor, index) => {
    ring.setDescriptor(first + index, { next: first + index + 1, ...descriptor });
  });
}

function placeTable(address: number, descriptors: readonly Descriptor[]): void {
  const view = new DataView(new ArrayBuffer(16 * descriptors.length));
  descriptors.forEach((descriptor, index) => {
    view.setBigUint64(16 * index, BigInt(descriptor.address), true);
    view.setUint32(16 * index + 8, descriptor.length, true);
    view.setUint16(16 * index + 12, descriptor.flags ?? 0, true);
    view.setUint16(16 * index + 14, descriptor.next ?? index + 1, true);
  });
  guest.bytes(address, view.byteLength).set(new Uint8Array(view.buffer));
}

function submit(head = 0): void {
  ring.offer(head);
  ring.publish();
  guest.poll();
}

function expectLatched(fault: QueueFault): void {
  expect(state.queues[0]?.fault).toBe(fault);
  expect(ring.takeUsed()).toBeUndefined();
  // 2.1.2: the driver is told.
  expect(guest.registers.read(mmio.VIRTIO_MMIO_STATUS) & 64).toBe(64);
  expect(guest.registers.read(mmio.VIRTIO_MMIO_INTERRUPT_STATUS) & 2).toBe(2);
  // A broken queue is left alone, also when it is kicked again.
  place([header(), status()]);
  for (let round = 0; round < 3; round++) {
    guest.registers.write(mmio.VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    submit();
  }
  expect(ring.takeUsed()).toBeUndefined();
}

function expectAnswered(expected: number): void {
  expect(state.queues[0]?.fault).toBeUndefined();
  expect(ring.takeUsed()).toMatchObject({ id: 0 });
  expect(guest.bytes(guest.spare + 64, 1)[0]).toBe(expected);
}

describe("loops and lengths", () => {
  const LOOP: QueueFault = "a chain is longer than its table or the device's limit, or loops";

  test("a descriptor that is its own next", () => {
    place([{ ...header(), next: 0 }]);
    submit();
    expectLatched(LOOP);
  });

  test("an empty descriptor that is its own next", () => {
    place([{ address: 0, length: 0, flags: NEXT, next: 0 }]);
    submit();
    expectLatched(LOOP);
  });

  test("two descriptors in a circle", () => {
    place([header(), { ...header(), next: 0 }]);
    submit();
    expectLatched(LOOP);
  });

  test("a table that loops", () => {
    const table = guest.spare + 8192;
    placeTable(table, [header(), { ...header(), next: 0 }]);
    place([{ address: table, length: 32, flags: INDIRECT }]);
    submit();
    expectLatched(LOOP);
  });

  test("a table of empty descriptors that loops", () => {
    const table = guest.spare + 8192;
    placeTable(table, [{ address: 0, length: 0, flags: NEXT, next: 0 }]);
    place([{ address: table, length: 16 * 32_768, flags: INDIRECT }]);
    submit();
    expectLatched(LOOP);
  });

  test("a table with more buffers than the device takes", () => {
    const table = guest.spare + 8192;
    placeTable(
      table,
      Array.from({ length: 400 }, () => header()),
    );
    place([{ address: table, length: 16 * 400, flags: INDIRECT }]);
    submit();
    expectLatched(LOOP);
  });

  test("a chain as long as the queue is no loop", () => {
    const middle = Array.from({ length: SIZE - 2 }, () => ({ ...data(512) }));
    place([header(), ...middle, status()]);
    submit();
    expectAnswered(0);
  });

  test("a chain of more than 4 GiB", () => {
    place([header(), ...Array.from({ length: 3 }, () => data(2 ** 32 - 1)), status()]);
    submit();
    expectLatched("a chain describes more than 2^32 bytes");
  });
});

describe("indices", () => {
  test("a head outside of the table", () => {
    submit(SIZE);
    expectLatched("a chain's head is outside of the descriptor table");
  });

  test("a head of 65535", () => {
    submit(65_535);
    expectLatched("a chain's head is outside of the descriptor table");
  });

  test("a next outside of the table", () => {
    place([{ ...header(), next: SIZE }]);
    submit();
    expectLatched("a chain's next is outside of its table");
  });

  test("a next outside of an indirect table", () => {
    placeTable(guest.spare + 8192, [{ ...header(), next: 2 }]);
    place([{ address: guest.spare + 8192, length: 32, flags: INDIRECT }]);
    submit();
    expectLatched("a chain's next is outside of its table");
  });

  test.each([SIZE + 1, 1000, 65_535])("an available index that jumps by %i", (jump) => {
    ring.setAvailableIndex(jump);
    guest.poll();
    expectLatched("the available index moved by more than the queue's size");
  });

  test("an available index that goes backwards", () => {
    place([header(), status()]);
    submit();
    ring.takeUsed();
    ring.setAvailableIndex(0);
    guest.poll();
    expectLatched("the available index moved by more than the queue's size");
  });

  test("the same head many times over is served each time", () => {
    place([header(), data(), status()]);
    for (let count = 0; count < SIZE; count++) ring.offer(0);
    ring.publish();
    guest.poll();
    let used = 0;
    while (ring.takeUsed() !== undefined) used += 1;
    expect(used).toBe(SIZE);
  });
});

describe("indirect tables", () => {
  const RULES: QueueFault = "an indirect descriptor without the feature, inside a table, or with a next";
  const TABLE: QueueFault = "an indirect table is empty, not a multiple of 16 bytes, or not in memory";

  test("inside of one another", () => {
    const table = guest.spare + 8192;
    placeTable(table, [{ address: table, length: 16, flags: INDIRECT }]);
    place([{ address: table, length: 16, flags: INDIRECT }]);
    submit();
    expectLatched(RULES);
  });

  test("with a next", () => {
    const table = guest.spare + 8192;
    placeTable(table, [header(), status()]);
    place([{ address: table, length: 32, flags: INDIRECT | NEXT }, status()]);
    submit();
    expectLatched(RULES);
  });

  test("that were not negotiated", () => {
    begin(VIRTIO_F_INDIRECT_DESC);
    const table = guest.spare + 8192;
    placeTable(table, [header(), status()]);
    place([{ address: table, length: 32, flags: INDIRECT }]);
    submit();
    expectLatched(RULES);
  });

  test.each([0, 1, 15, 17, 2 ** 32 - 1])("of %i bytes", (length) => {
    place([{ address: guest.spare + 8192, length, flags: INDIRECT }]);
    submit();
    expectLatched(TABLE);
  });

  test.each<[string, number | bigint]>([
    ["over the end of memory", -16],
    ["beyond memory", 2 ** 40],
    ["at the end of the address space", 2n ** 64n - 8n],
  ])("%s", (_, address) => {
    const end = guest.spare + SPARE_BYTES;
    place([{ address: address === -16 ? end - 16 : address, length: 32, flags: INDIRECT }]);
    submit();
    expectLatched(TABLE);
  });

  test("2.7.5.3.2: the write flag on the descriptor of a table is ignored", () => {
    const table = guest.spare + 8192;
    placeTable(table, [header(), data(), status()]);
    place([{ address: table, length: 48, flags: INDIRECT | WRITE }]);
    submit();
    expectAnswered(0);
  });

  test("2.7.5.3.2: plain descriptors may come before the table", () => {
    const table = guest.spare + 8192;
    placeTable(table, [data(), status()]);
    place([header(), { address: table, length: 32, flags: INDIRECT }]);
    submit();
    expectAnswered(0);
  });

  test("a table at an odd address", () => {
    const table = guest.spare + 8193;
    placeTable(table, [header(), data(), status()]);
    place([{ address: table, length: 48, flags: INDIRECT }]);
    submit();
    expectAnswered(0);
  });
});

describe("buffers", () => {
  test("a readable buffer behind a writable one", () => {
    place([header(), data(), { ...header() }, status()]);
    submit();
    expectLatched("a device-readable buffer follows a device-writable one");
  });

  test("the status not writable", () => {
    place([header(), { ...status(), flags: 0 }]);
    submit();
    expectLatched("a chain has no byte for the status");
  });

  test("a status of no bytes", () => {
    place([header(), { ...status(), length: 0 }]);
    submit();
    expectLatched("a chain has no byte for the status");
  });

  test("a status outside of memory", () => {
    place([header(), { ...status(), address: 2 ** 45 }]);
    submit();
    expectLatched("a chain has no byte for the status");
  });

  test("a header alone", () => {
    place([{ ...header(), flags: 0 }]);
    submit();
    expectLatched("a chain has no byte for the status");
  });

  test("a header of 15 bytes", () => {
    place([{ ...header(), length: 15 }, status()]);
    submit();
    expectAnswered(1);
  });

  test("no header", () => {
    place([status()]);
    submit();
    expectAnswered(1);
  });

  test("a header in sixteen pieces", () => {
    begin();
    const pieces = Array.from({ length: 14 }, (_, index) => ({ address: guest.spare + index, length: 1, flags: NEXT }));
    place([...pieces, { address: guest.spare + 14, length: 2, flags: NEXT }, status()]);
    submit();
    expectAnswered(0);
  });

  test.each<[string, number | bigint, number]>([
    ["beyond memory", 2 ** 45, 512],
    ["over the end of memory", -256, 512],
    ["of almost 4 GiB", 0, 2 ** 32 - 512],
    ["whose end wraps around 2^64", 2n ** 64n - 256n, 512],
    ["at 2^53", 2n ** 53n, 512],
    ["at 2^63", 2n ** 63n, 512],
  ])("data %s", (_, address, length) => {
    const end = guest.spare + SPARE_BYTES;
    const at = address === -256 ? end - 256 : address;
    place([header(), { address: at, length, flags: NEXT | WRITE }, status()]);
    submit();
    expectAnswered(1);
  });

  test.each([1, 511, 513])("data of %i bytes", (length) => {
    place([header(), data(length), status()]);
    submit();
    expectAnswered(1);
  });

  test("data over the rings themselves is plain memory", () => {
    const { descriptorAddress, deviceAddress } = guest.plans[0]!.layout;
    guest.disk.bytes.set(pattern(1024, 8));
    place([header(), { address: descriptorAddress, length: 512, flags: NEXT | WRITE }, status()]);
    submit();
    expectAnswered(0);
    place([header(), { address: deviceAddress, length: 512, flags: NEXT | WRITE }, status()]);
    submit();
    expect(guest.served).toBeUndefined();
  });

  test("unknown flags are ignored", () => {
    place([{ ...header(), flags: NEXT | 0xfff0 }, { ...data(), flags: NEXT | WRITE | 0x8000 }, status()]);
    submit();
    expectAnswered(0);
  });
});

test("without the event index every case is the same", () => {
  begin(VIRTIO_F_EVENT_IDX);
  submit(SIZE);
  expectLatched("a chain's head is outside of the descriptor table");
});

describe("memory with a hole", () => {
  const MiB = 1024 * 1024;

  function withHole(): void {
    const length = 2 * MiB;
    const regions = [
      { guestBase: 0, memory: new SharedArrayBuffer(length), byteOffset: 0, length },
      { guestBase: length, memory: new SharedArrayBuffer(MiB), byteOffset: 0, length: MiB },
      { guestBase: length + 2 * MiB, memory: new SharedArrayBuffer(MiB), byteOffset: 0, length: MiB },
    ];
    guest = new OneThread({ queueCount: 2, queueSize: SIZE, memory: { regions } });
    ring = guest.ring(0);
    state = new DeviceState(guest.device);
    guest.header(guest.spare, 0);
  }

  test("data that straddles two adjacent regions is read into both", () => {
    withHole();
    guest.disk.bytes.set(pattern(512, 6));
    place([header(), { address: 2 * MiB - 200, length: 512, flags: NEXT | WRITE }, status()]);
    submit();
    expectAnswered(0);
    expect(guest.bytes(2 * MiB - 200, 200)).toEqual(pattern(512, 6).subarray(0, 200));
    expect(guest.bytes(2 * MiB, 312)).toEqual(pattern(512, 6).subarray(200));
  });

  test("data that runs into the hole, lies in it, or spans it is refused", () => {
    withHole();
    for (const [address, length] of [
      [3 * MiB - 200, 512],
      [3 * MiB + 4096, 512],
      [3 * MiB - 512, MiB + 1024],
    ] as const) {
      guest.bytes(guest.spare + 64, 1)[0] = 0xff;
      place([header(), { address, length, flags: NEXT | WRITE }, status()]);
      submit();
      expectAnswered(1);
    }
  });

  test("a table in the hole, or into it, breaks the queue", () => {
    withHole();
    place([{ address: 3 * MiB - 16, length: 32, flags: INDIRECT }]);
    submit();
    expectLatched("an indirect table is empty, not a multiple of 16 bytes, or not in memory");
  });
});

test("guest memory that does not begin at 0 has nothing below it", () => {
  const memory = new GuestMemory(GuestMemory.create(4096, 2 ** 32));
  expect(memory.translate(0, 16, [])).toBe(false);
  expect(memory.translate(2 ** 32, 4096, [])).toBe(true);
});
