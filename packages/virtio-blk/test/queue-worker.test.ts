/** Serving: what is in flight, resets, stopping, and several queues, on one thread and in the simulator. */
import { type Co, isBlockError, join, until } from "@spindle/base";
import { ThreadTable } from "@spindle/shared-memory";
import { SimulatedRunner } from "@spindle/testkit";
import { describe, expect, test } from "vitest";
import { createVirtioBlk } from "../src/create-device.ts";
import { planGuest, startGuest } from "../src/driver/guest-driver.ts";
import { GuestQueue } from "../src/driver/guest-queue.ts";
import { VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC } from "../src/features.ts";
import { GuestMemory } from "../src/guest-memory.ts";
import { MmioTransport } from "../src/mmio.ts";
import { QueueServer } from "../src/queue-worker.ts";
import * as mmio from "../src/registers.ts";
import { MemoryDisk } from "./memory-disk.ts";
import { OneThread, pattern } from "./one-thread.ts";

const RINGS = [
  ["split rings", {}],
  ["packed rings", { packed: true }],
  ["split rings in order", { inOrder: true }],
  ["packed rings in order", { packed: true, inOrder: true }],
] as const;

const REFUSED = [
  ["all features", 0],
  ["no event index", VIRTIO_F_EVENT_IDX],
  ["no indirect descriptors", VIRTIO_F_INDIRECT_DESC],
  ["neither", VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC],
] as const;

const FORMS = RINGS.flatMap(([rings, device]) =>
  REFUSED.map(([features, refused]) => [rings, features, device, refused] as const),
);

describe.each(FORMS)("with %s and %s", (_, __, device, refused) => {
  test("a guest reads what it wrote, at full depth and over several queues", () => {
    const guest = new OneThread({ queueCount: 3, queueSize: 8, refused, device });
    const queues = [0, 1, 2].map((index) => guest.queue(index));
    // The used and available indices of each queue wrap at 65,536 in the first case.
    const rounds = refused === 0 ? 4200 : 100;
    const user = function* (queue: GuestQueue, place: number): Co<void> {
      const bytes = pattern(512, place);
      const back = new Uint8Array(512);
      for (let round = 0; round < rounds; round++) {
        new DataView(bytes.buffer).setUint32(508, round);
        yield* queue.write(place * 512, bytes);
        yield* queue.read(place * 512, back);
        if (Buffer.compare(back, bytes) !== 0) throw new Error(`round ${round}: other bytes came back`);
      }
    };
    guest.runner.run(
      join(queues.flatMap((queue, index) => Array.from({ length: 8 }, (___, place) => user(queue, index * 8 + place)))),
    );
    expect(guest.served).toBeUndefined();
  });

  test("requests that wait end in any order, and all of them end", () => {
    const guest = new OneThread({ queueSize: 32, refused, device });
    const queue = guest.queue();
    guest.disk.open = false;
    const slots = Array.from({ length: queue.depth }, (___, index) =>
      queue.submit({ type: 0, offset: index * 512, length: 512 }),
    );
    expect(queue.submit({ type: 4 })).toBe(-1);
    queue.commit();
    guest.poll();
    expect(queue.collect()).toBe(0);
    guest.disk.open = true;
    guest.poll();
    expect(queue.collect()).toBe(queue.depth);
    expect(slots.map((slot) => queue.finish(slot))).toEqual(slots.map(() => 0));
  });
});

/** A disk whose reads end when they are told to, in any order. */
function readsOnDemand(guest: OneThread): Map<number, () => void> {
  const pending = new Map<number, () => void>();
  guest.disk.read = function* (offset) {
    let ended = false;
    pending.set(offset / 512, () => {
      ended = true;
    });
    yield* until(() => ended);
  };
  return pending;
}

describe.each(RINGS)("on %s", (_, device) => {
  test("requests come back in the order in which they end, or with IN_ORDER in that in which they came", () => {
    const guest = new OneThread({ queueSize: 8, device });
    const pending = readsOnDemand(guest);
    const queue = guest.queue();
    const inOrder = "inOrder" in device;
    for (let round = 0; round < 50; round++) {
      const slots = Array.from({ length: 8 }, (__, index) =>
        queue.submit({ type: 0, offset: index * 512, length: 512 }),
      );
      queue.commit();
      guest.poll();
      const done: number[] = [];
      for (const index of [3, 1, 0, 2, 7, 6, 5, 4]) {
        pending.get(index)?.();
        guest.poll();
        queue.collect();
        done.push(slots.filter((slot) => queue.ended(slot)).length);
      }
      expect(done).toEqual(inOrder ? [0, 0, 2, 4, 4, 4, 4, 8] : [1, 2, 3, 4, 5, 6, 7, 8]);
      expect(slots.map((slot) => queue.finish(slot))).toEqual(slots.map(() => 0));
    }
  });

  test("a server goes on where another one stopped, and a reset begins anew", () => {
    const guest = new OneThread({ queueSize: 8, device });
    for (let round = 0; round < 60; round++) {
      const queue = guest.queue();
      for (let stop = 0; stop < 5; stop++) {
        for (let count = 0; count <= (round + stop) % 8; count++) guest.runner.run(queue.flush());
        guest.stopping = true;
        guest.poll();
        expect(guest.served).toEqual({ error: undefined });
        guest.serve();
      }
      guest.disk.open = false;
      for (let count = 0; count < round % 8; count++) queue.submit({ type: 4 });
      queue.commit();
      guest.poll();
      guest.registers.write(mmio.VIRTIO_MMIO_STATUS, 0);
      guest.disk.open = true;
      guest.start();
    }
  });
});

test("nor when some are in flight already, or another queue keeps the server busy", () => {
  const guest = new OneThread({ queueCount: 2, queueSize: 8 });
  const ring = guest.ring(0);
  const other = guest.queue(1);
  guest.header(guest.spare, 4);
  ring.setDescriptor(0, { address: guest.spare, length: 16, flags: 1, next: 1 });
  ring.setDescriptor(1, { address: guest.spare + 16, length: 1, flags: 2 });
  guest.disk.open = false;
  for (const count of [5, 8, 8]) {
    for (let offered = 0; offered < count; offered++) ring.offer(0);
    ring.publish();
    guest.poll();
    guest.runner.run(other.getId());
  }
  expect(guest.disk.log.length).toBe(8);
});

test("a guest that never stops does not keep other coroutines of the thread from their turn", () => {
  const guest = new OneThread({ queueSize: 8 });
  const ring = guest.ring();
  guest.header(guest.spare, 0);
  ring.setDescriptor(0, { address: guest.spare, length: 16, flags: 1, next: 1 });
  ring.setDescriptor(1, { address: guest.spare + 16, length: 513, flags: 2 });
  let reads = 0;
  let seen = false;
  guest.disk.read = function* () {
    reads += 1;
    // As if another thread of the guest offered the next request before this one has ended.
    if (seen || reads === 10_000) return;
    ring.offer(0);
    ring.publish();
  };
  guest.runner.spawn(
    until(() => reads > 100),
    () => {
      seen = true;
    },
  );
  ring.offer(0);
  ring.publish();
  guest.poll();
  expect(reads).toBeLessThan(200);
});

test("one queue's waiting requests do not hold up another queue", () => {
  const guest = new OneThread({ queueCount: 2, queueSize: 8 });
  const [first, second] = [guest.queue(0), guest.queue(1)] as [GuestQueue, GuestQueue];
  guest.disk.open = false;
  first.submit({ type: 4 });
  first.commit();
  guest.poll();
  expect(guest.runner.run(second.getId()).length).toBe(20);
  expect(first.collect()).toBe(0);
});

describe("before DRIVER_OK and after a reset", () => {
  test("2.1.2: nothing is taken from the rings before DRIVER_OK", () => {
    const guest = new OneThread();
    const { registers } = guest;
    registers.write(mmio.VIRTIO_MMIO_STATUS, 0);
    guest.poll();
    for (const bits of [1, 3]) registers.write(mmio.VIRTIO_MMIO_STATUS, bits);
    registers.write(mmio.VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    registers.write(mmio.VIRTIO_MMIO_DRIVER_FEATURES, 1);
    registers.write(mmio.VIRTIO_MMIO_STATUS, 11);
    const { layout } = guest.plans[0]!;
    registers.write(mmio.VIRTIO_MMIO_QUEUE_NUM, layout.size);
    registers.write(mmio.VIRTIO_MMIO_QUEUE_DESC_LOW, layout.descriptorAddress);
    registers.write(mmio.VIRTIO_MMIO_QUEUE_DRIVER_LOW, layout.driverAddress);
    registers.write(mmio.VIRTIO_MMIO_QUEUE_DEVICE_LOW, layout.deviceAddress);
    registers.write(mmio.VIRTIO_MMIO_QUEUE_READY, 1);
    const ring = guest.ring();
    guest.header(guest.spare, 4);
    ring.setDescriptor(0, { address: guest.spare, length: 16, flags: 1, next: 1 });
    ring.setDescriptor(1, { address: guest.spare + 16, length: 1, flags: 2 });
    ring.offer(0);
    ring.publish();
    registers.write(mmio.VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    guest.poll();
    expect(guest.disk.log).toEqual([]);
    // What was made available before is served without another kick.
    const rings = guest.thread.snapshot();
    registers.write(mmio.VIRTIO_MMIO_STATUS, 15);
    expect(guest.thread.snapshot()).not.toBe(rings);
    guest.poll();
    expect(guest.disk.log).toEqual(["flush"]);
  });

  test("a reset with 256 requests in flight is over when they are, and they touch neither rings nor statuses", () => {
    const guest = new OneThread({ queueSize: 256, dataBytes: 4096, diskLength: 4096 });
    const queue = guest.queue();
    guest.disk.open = false;
    for (let count = 0; count < 256; count++) queue.submit({ type: 0, length: 512 });
    queue.commit();
    guest.poll();
    guest.registers.write(mmio.VIRTIO_MMIO_STATUS, 0);
    expect(guest.registers.read(mmio.VIRTIO_MMIO_STATUS)).not.toBe(0);
    // Everything but the end of the reset is ignored meanwhile.
    guest.registers.write(mmio.VIRTIO_MMIO_STATUS, 15);
    guest.registers.write(mmio.VIRTIO_MMIO_QUEUE_READY, 1);
    guest.poll();
    expect(guest.registers.read(mmio.VIRTIO_MMIO_STATUS) & 4).toBe(4);
    const { slotsAddress, layout } = guest.plans[0]!;
    const before = [guest.bytes(slotsAddress, 256 * 128).slice(), guest.bytes(layout.deviceAddress, 2054).slice()];
    guest.disk.open = true;
    guest.poll();
    expect(guest.registers.read(mmio.VIRTIO_MMIO_STATUS)).toBe(0);
    expect(guest.registers.read(mmio.VIRTIO_MMIO_INTERRUPT_STATUS)).toBe(0);
    expect([guest.bytes(slotsAddress, 256 * 128), guest.bytes(layout.deviceAddress, 2054)]).toEqual(before);
    // The old queue's user is told, the new one works.
    expect(() => guest.runner.run(queue.flush())).toThrow("reset");
    guest.start();
    expect(guest.runner.run(guest.queue().getId()).length).toBe(20);
  });

  test("a coroutine can wait for the end of a reset", () => {
    const guest = new OneThread();
    const queue = guest.queue();
    guest.disk.open = false;
    queue.submit({ type: 4 });
    queue.commit();
    guest.poll();
    guest.registers.write(mmio.VIRTIO_MMIO_STATUS, 0);
    let over = false;
    guest.runner.spawn(new MmioTransport(guest.device).resetComplete(), () => {
      over = true;
    });
    guest.poll();
    expect(over).toBe(false);
    guest.disk.open = true;
    guest.poll();
    expect(over).toBe(true);
  });

  test("4.2.2.1: a stopped queue reads as ready until nothing of it is in flight, and the other goes on", () => {
    const guest = new OneThread({ queueCount: 2 });
    const queue = guest.queue(0);
    guest.disk.open = false;
    queue.submit({ type: 4 });
    queue.commit();
    guest.poll();
    const { registers } = guest;
    registers.write(mmio.VIRTIO_MMIO_QUEUE_SEL, 0);
    registers.write(mmio.VIRTIO_MMIO_QUEUE_READY, 0);
    guest.poll();
    expect(registers.read(mmio.VIRTIO_MMIO_QUEUE_READY)).toBe(1);
    // What is offered now is not taken, also when the server is busy with the other queue.
    queue.submit({ type: 4 });
    queue.commit();
    expect(guest.runner.run(guest.queue(1).getId()).length).toBe(20);
    expect(registers.read(mmio.VIRTIO_MMIO_QUEUE_READY)).toBe(1);
    expect(guest.disk.log).toEqual(["flush"]);
    guest.disk.open = true;
    guest.poll();
    expect(registers.read(mmio.VIRTIO_MMIO_QUEUE_READY)).toBe(0);
    expect(queue.collect()).toBe(0);
  });

  test("a request that ended just before a reset does not appear on the rings, while others are in flight", () => {
    const guest = new OneThread();
    const queue = guest.queue();
    const { layout } = guest.plans[0]!;
    guest.disk.open = false;
    let ended = false;
    let secondMayEnd = false;
    // Runs in the same turn as the request, before the server.
    guest.runner.spawn(
      until(() => ended),
      () => guest.registers.write(mmio.VIRTIO_MMIO_STATUS, 0),
    );
    const flush = guest.disk.flush.bind(guest.disk);
    guest.disk.flush = function* () {
      yield* flush();
      ended = true;
    };
    guest.disk.read = () => until(() => secondMayEnd);
    queue.submit({ type: 4 });
    queue.submit({ type: 0, length: 512 });
    queue.commit();
    guest.poll();
    guest.disk.open = true;
    guest.poll();
    guest.poll();
    expect(ended).toBe(true);
    expect(guest.registers.read(mmio.VIRTIO_MMIO_STATUS)).not.toBe(0);
    secondMayEnd = true;
    guest.poll();
    expect(guest.registers.read(mmio.VIRTIO_MMIO_STATUS)).toBe(0);
    expect([...guest.bytes(layout.deviceAddress + 2, 2)]).toEqual([0, 0]);
  });

  test("1,000 resets at random moments leave a device that works", () => {
    const guest = new OneThread({ queueSize: 8 });
    for (let round = 0; round < 1000; round++) {
      const queue = guest.queue();
      guest.disk.open = round % 3 !== 0;
      for (let count = 0; count <= round % 8; count++) queue.submit({ type: round % 2, length: 512 });
      queue.commit();
      if (round % 5 !== 0) guest.poll();
      guest.registers.write(mmio.VIRTIO_MMIO_STATUS, 0);
      guest.disk.open = true;
      guest.start();
    }
    expect(guest.runner.run(guest.queue().getId()).length).toBe(20);
  });
});

describe("serving", () => {
  test("stops when told to, after what is in flight, and another server goes on", () => {
    const guest = new OneThread({ queueSize: 8 });
    const queue = guest.queue();
    for (let round = 0; round < 30; round++) {
      guest.disk.open = false;
      const slot = queue.submit({ type: 1, offset: 512 * round, length: 512 });
      queue.buffer(slot).set(pattern(512, round));
      queue.commit();
      guest.poll();
      guest.stopping = true;
      guest.poll();
      expect(guest.served).toBeUndefined();
      // What comes now is left for the next one.
      const late = queue.submit({ type: 4 });
      queue.commit();
      guest.disk.open = true;
      guest.poll();
      expect(guest.served).toEqual({ error: undefined });
      expect([queue.collect(), queue.ended(slot), queue.ended(late)]).toEqual([1, true, false]);
      guest.serve();
      guest.poll();
      queue.collect();
      expect([queue.finish(slot), queue.finish(late)]).toEqual([0, 0]);
    }
    expect(guest.disk.bytes.subarray(512 * 29, 512 * 30)).toEqual(pattern(512, 29));
  });

  test("is for one at a time, and for queues that are there", () => {
    const guest = new OneThread({ queueCount: 2 });
    const options = { device: guest.device, disk: guest.disk, thread: guest.thread, runner: guest.runner };
    expect(() => new QueueServer({ ...options, queues: [0] })).toThrow("another thread serves");
    guest.stopping = true;
    guest.poll();
    expect(() => new QueueServer({ ...options, queues: [0, 2] })).toThrow("no virtqueue 2");
    // A refused server has claimed nothing.
    guest.serve();
    expect(guest.runner.run(guest.queue(1).getId()).length).toBe(20);
  });

  test("ends with the error when the disk throws what is no BlockError, after answering", () => {
    const guest = new OneThread();
    const queue = guest.queue();
    const bug = new TypeError("a bug in the disk");
    guest.disk.read = function* () {
      throw bug;
    };
    const slot = queue.submit({ type: 0, length: 512 });
    queue.commit();
    guest.poll();
    expect(guest.served).toEqual({ error: bug });
    queue.collect();
    expect(queue.finish(slot)).toBe(1);
  });
});

test("a guest's errors are BlockErrors", () => {
  const guest = new OneThread();
  const queue = guest.queue();
  const codeOf = (run: () => void): string => {
    try {
      run();
    } catch (error) {
      if (isBlockError(error)) return error.code;
      throw error;
    }
    return "none";
  };
  guest.disk.error = "ENOSPC";
  expect(codeOf(() => guest.runner.run(queue.write(0, new Uint8Array(512))))).toBe("EIO");
  guest.disk.error = "ENOTSUP";
  expect(codeOf(() => guest.runner.run(queue.discard(0, 512)))).toBe("ENOTSUP");
  guest.disk.error = undefined;
  expect(codeOf(() => guest.runner.run(queue.read(0, new Uint8Array(65_536))))).toBe("EINVAL");
  expect(codeOf(() => guest.runner.run(queue.read(0, new Uint8Array(512))))).toBe("none");
});

test.each([1, 2, 3, 4, 5, 6, 7, 8])(
  "seed %i: in the simulator every request ends, with the bytes that were written",
  (seed) => {
    const runner = new SimulatedRunner(seed);
    const plan = planGuest({ queueCount: 2, queueSize: 8, dataBytes: 4096 });
    const memory = GuestMemory.create(plan.length);
    const threads = ThreadTable.create();
    const thread = new ThreadTable(threads).attach();
    const disk = new MemoryDisk(1024 * 1024);
    const device = createVirtioBlk({ memory, threads, diskLength: disk.length, queueCount: 2 });
    let stopping = false;
    const read = disk.read.bind(disk);
    disk.read = function* (offset, vector) {
      yield { kind: "operation", perform: () => undefined, start: () => {} };
      yield* read(offset, vector);
    };
    const server = new QueueServer({ device, queues: [0, 1], disk, thread, runner });
    let served: { error: unknown } | undefined;
    runner.spawn(
      server.serve(() => stopping),
      (error) => {
        served = { error };
      },
      "server",
    );
    const guest = runner.run(startGuest(new MmioTransport(device), device, plan.queues));
    const cos = [0, 1].flatMap((index) => {
      const queue = new GuestQueue(guest, index, thread);
      return Array.from({ length: 12 }, (_, writer) =>
        (function* () {
          const offset = (index * 12 + writer) * 4096;
          for (let round = 0; round < 20; round++) {
            const bytes = pattern(4096, round * 24 + writer);
            yield* queue.write(offset, bytes);
            const back = new Uint8Array(4096);
            yield* queue.read(offset, back);
            if (Buffer.compare(back, bytes) !== 0) throw new Error(`writer ${writer}, round ${round}: other bytes`);
          }
        })(),
      );
    });
    runner.runAll(cos, "writer");
    stopping = true;
    runner.runUntil(() => served !== undefined);
    expect(served).toEqual({ error: undefined });
  },
);
