/** The device's side of a packed ring against the driver's, without a device: virtio 1.2 §2.8. */
import { describe, expect, test } from "vitest";
import { DescriptorChain } from "../src/descriptor-chain.ts";
import { planGuest } from "../src/driver/guest-driver.ts";
import { PackedDriverRing } from "../src/driver/packed-driver-ring.ts";
import { GuestMemory } from "../src/guest-memory.ts";
import { PackedQueue } from "../src/packed-queue.ts";
import type { QueueLayout } from "../src/queue-layout.ts";
import { eventPassed, RingPlace } from "../src/ring-place.ts";
import type { QueuePosition, RingFeatures } from "../src/virtqueue.ts";

const BUFFER = { address: 0, length: 16 };
const SIZES = [...Array.from({ length: 16 }, (_, power) => 2 ** power), 3, 5, 7, 31, 100, 1000, 32_767];

interface Rings {
  readonly driver: PackedDriverRing;
  readonly device: PackedQueue;
  readonly chain: DescriptorChain;
  readonly memory: GuestMemory;
  readonly layout: QueueLayout;
  readonly features: RingFeatures;
  /** The descriptor at a place: its length, id and flags. */
  descriptor(index: number): { length: number; id: number; flags: number };
}

function rings(size: number, eventIndex = true): Rings {
  const { queues, length } = planGuest({ queueSize: size, dataBytes: 4096 });
  const memory = new GuestMemory(GuestMemory.create(length));
  const layout = (queues[0] as (typeof queues)[0]).layout;
  const features = { packed: true, eventIndex, indirect: true, inOrder: false };
  const device = PackedQueue.open(memory, layout, features) as PackedQueue;
  const ring = memory.window(layout.descriptorAddress, 16 * size)!;
  return {
    driver: new PackedDriverRing(memory, layout, features),
    device,
    chain: new DescriptorChain(size),
    memory,
    layout,
    features,
    descriptor: (index) => ({
      length: ring.u32(16 * index + 8),
      id: ring.u16(16 * index + 12),
      flags: ring.u16(16 * index + 14),
    }),
  };
}

describe.each([false, true])("with the event index %s", (eventIndex) => {
  test.each(SIZES)("70,000 requests pass a queue of %i entries in order", (size) => {
    const { driver, device, chain } = rings(size, eventIndex);
    let submitted = 0;
    let taken = 0;
    let completed = 0;
    while (completed < 70_000) {
      // Batches of all sizes, of chains of one to three descriptors, so that the ring wraps inside of both.
      let room = 1 + (submitted % size);
      while (room > 0) {
        const descriptors = Math.min(room, 1 + (submitted % 3));
        driver.offerChain(submitted++ % size, new Array<typeof BUFFER>(descriptors).fill(BUFFER));
        room -= descriptors;
      }
      driver.publish();
      while (device.take(chain)) {
        if (chain.head !== taken % size) throw new Error(`took ${chain.head} as number ${taken}`);
        device.put(chain.head, taken++ % 1000, chain.slots);
      }
      device.publish();
      for (let used = driver.takeUsed(); used !== undefined; used = driver.takeUsed()) {
        if (used.id !== completed % size || used.length !== completed % 1000) throw new Error(`at ${completed}`);
        completed += 1;
      }
      if (completed !== submitted) throw new Error(`${completed} of ${submitted} came back`);
    }
    expect(device.fault).toBeUndefined();
  });

  test.each([4, 6, 32])("chains of a queue of %i entries come back in any order, wherever it wraps", (size) => {
    const { driver, device, chain } = rings(size, eventIndex);
    for (let round = 0; round < 2000; round++) {
      const taken: { head: number; slots: number }[] = [];
      for (let id = 0, left = size; left > 0; id++) {
        const descriptors = Math.min(left, 1 + ((round + id) % 3));
        driver.offerChain(id, new Array<typeof BUFFER>(descriptors).fill(BUFFER));
        left -= descriptors;
      }
      driver.publish();
      while (device.take(chain)) taken.push({ head: chain.head, slots: chain.slots });
      // A ring that is full has nothing more to take, also where its flags would do for another turn.
      expect(device.hasAvailable).toBe(false);
      const order = round % 2 === 0 ? taken.reverse() : taken.sort((a, b) => ((a.head * 7) % 5) - ((b.head * 7) % 5));
      for (const { head, slots } of order) device.put(head, head, slots);
      device.publish();
      for (const { head } of order) expect(driver.takeUsed()).toEqual({ id: head, length: head });
      expect(driver.hasUsed).toBe(false);
    }
  });
});

test("2.8.1: the flags of descriptors follow the wrap counters, which begin at 1 and turn with the ring", () => {
  const { driver, device, chain, descriptor } = rings(2);
  const available = [0x80, 0x80, 0x8000, 0x8000, 0x80];
  const used = [0x8080, 0x8080, 0, 0, 0x8080];
  for (let step = 0; step < 5; step++) {
    driver.offerChain(step % 2, [BUFFER]);
    driver.publish();
    expect(descriptor(step % 2).flags, `available ${step}`).toBe(available[step]);
    expect(device.take(chain)).toBe(true);
    device.put(chain.head, 0, chain.slots);
    expect(descriptor(step % 2).flags, `used ${step}`).toBe(used[step]);
    driver.takeUsed();
  }
});

test("2.8.4: a used descriptor says whether something was written, and how much", () => {
  const { driver, device, chain, descriptor } = rings(4);
  for (const length of [0, 513]) {
    driver.offerChain(2, [BUFFER]);
    driver.publish();
    device.take(chain);
    device.put(chain.head, length, chain.slots);
  }
  expect(descriptor(0)).toEqual({ length: 0, id: 2, flags: 0x8080 });
  expect(descriptor(1)).toEqual({ length: 513, id: 2, flags: 0x8082 });
});

test("2.8.6: one used descriptor stands for a whole list, and both sides skip the rest", () => {
  const { driver, device, chain, descriptor } = rings(8);
  driver.offerChain(5, [BUFFER, BUFFER, BUFFER]);
  driver.offerChain(6, [BUFFER, BUFFER]);
  driver.publish();
  device.take(chain);
  expect(chain).toMatchObject({ head: 5, slots: 3, count: 3 });
  device.put(5, 1, 3);
  device.take(chain);
  device.put(6, 2, 2);
  expect([0, 3].map((index) => descriptor(index).id)).toEqual([5, 6]);
  // What is skipped stays as the driver left it.
  expect([1, 2, 4].map((index) => descriptor(index).flags & 0x8080)).toEqual([0x80, 0x80, 0x80]);
  expect([driver.takeUsed()?.id, driver.takeUsed()?.id, driver.takeUsed()]).toEqual([5, 6, undefined]);
});

test("2.8.6: a list is not seen before its first descriptor is available", () => {
  const { driver, device, chain } = rings(8);
  driver.offerChain(0, [BUFFER, BUFFER]);
  expect(device.hasAvailable).toBe(false);
  expect(device.take(chain)).toBe(false);
  expect(device.fault).toBeUndefined();
  driver.publish();
  expect(device.take(chain)).toBe(true);
});

describe("event suppression", () => {
  const use = ({ driver, device, chain }: Rings, count = 1): boolean => {
    for (let index = 0; index < count; index++) {
      driver.offerChain(0, [BUFFER]);
      driver.publish();
      device.take(chain);
      device.put(chain.head, 0, chain.slots);
    }
    return device.publish();
  };

  test("2.8.10: events are sent when enabled and not when disabled", () => {
    for (const eventIndex of [false, true]) {
      const pair = rings(4, eventIndex);
      expect(use(pair), "zeros enable").toBe(true);
      pair.driver.suppressInterrupts();
      expect(use(pair)).toBe(false);
    }
    const pair = rings(4, false);
    pair.driver.suppressInterrupts();
    pair.driver.requestInterrupts();
    expect(use(pair)).toBe(true);
  });

  test("2.8.10: with the event index an event is sent for one descriptor of one turn, and only then", () => {
    const pair = rings(4);
    for (let turn = 0; turn < 5; turn++) {
      for (let index = 0; index < 4; index++) {
        while (pair.driver.takeUsed() !== undefined);
        pair.driver.requestInterrupts();
        expect(use(pair), `${turn}.${index}`).toBe(true);
        expect(use(pair)).toBe(false);
        while (pair.driver.takeUsed() !== undefined);
        expect(use(pair, 3), "the place was passed").toBe(false);
      }
    }
  });

  test("2.8.10: an event for a descriptor needs the feature; without it there is one too many rather than too few", () => {
    const pair = rings(4, false);
    pair.memory.window(pair.layout.driverAddress, 4)?.setU32(0, 0x2_8003);
    expect(use(pair)).toBe(true);
    pair.memory.window(pair.layout.driverAddress, 4)?.setU32(0, 0x3_0000);
    expect(use(pair), "the reserved value").toBe(true);
  });

  test("an event is passed exactly when the ring moves over it, at every place of every small ring", () => {
    for (const size of [1, 2, 3, 4, 7, 8]) {
      // The model counts descriptors from the beginning, across all turns.
      for (let before = 0; before < 3 * size; before++) {
        for (let moved = 1; moved <= size; moved++) {
          const after = before + moved;
          const place = new RingPlace(size);
          for (let step = 0; step < after; step++) place.advance(1);
          // An honest wish is for a descriptor that has not gone by a whole turn ago, and not lies a whole turn ahead.
          for (let event = Math.max(0, after - size); event < after + size; event++) {
            const turn = Math.floor(event / size) % 2 === 0;
            const wish = 0x2_0000 + (turn ? 0x8000 : 0) + (event % size);
            const expected = event >= before && event < after;
            const turns = Math.floor(after / size) - Math.floor(event / size);
            if (turns < 0 || turns > 1) continue;
            expect(eventPassed(wish, true, place, moved), `${size}: ${event} in ${before}..${after}`).toBe(expected);
          }
        }
      }
    }
  });

  test("nothing put means nothing to notify of", () => {
    expect(rings(4).device.publish()).toBe(false);
  });

  test("the driver is told to kick only while the device waits for kicks", () => {
    for (const eventIndex of [false, true]) {
      const { driver, device, chain } = rings(8, eventIndex);
      for (let round = 0; round < 40; round++) {
        device.requestKicks();
        driver.offerChain(0, [BUFFER]);
        expect(driver.publish()).toBe(true);
        device.suppressKicks();
        expect(device.take(chain)).toBe(true);
        driver.offerChain(1, [BUFFER]);
        expect(driver.publish()).toBe(false);
        expect(device.take(chain)).toBe(true);
        device.requestKicks();
        expect(device.hasAvailable).toBe(false);
        driver.offerChain(2, [BUFFER]);
        driver.offerChain(3, [BUFFER]);
        expect(driver.publish()).toBe(true);
        expect(device.hasAvailable).toBe(true);
        device.take(chain);
        device.take(chain);
        for (let id = 0; id < 4; id++) device.put(id, 0, 1);
        while (driver.takeUsed() !== undefined);
      }
    }
  });
});

test("a queue goes on where another server left it, at every place and turn", () => {
  const { driver, memory, layout, features, chain } = rings(5);
  let position: QueuePosition | undefined;
  for (let round = 0; round < 40; round++) {
    const device = PackedQueue.open(memory, layout, features, position) as PackedQueue;
    driver.offerChain(round % 5, round % 2 === 0 ? [BUFFER] : [BUFFER, BUFFER]);
    driver.publish();
    expect(device.take(chain)).toBe(true);
    expect(device.take(chain)).toBe(false);
    device.put(chain.head, 7, chain.slots);
    device.publish();
    expect(driver.takeUsed()).toEqual({ id: round % 5, length: 7 });
    position = device.position;
  }
});

test("a position that no queue can have is refused, and one with requests in flight keeps their number", () => {
  const { driver, memory, layout, features, chain } = rings(4);
  const open = (nextAvailable: number, nextUsed: number): PackedQueue | undefined =>
    PackedQueue.open(memory, layout, features, { nextAvailable, nextUsed });
  expect(open(0x8004, 0x8000), "a place outside of the ring").toBeUndefined();
  expect(open(0x8000, 0x7fff), "a place outside of the ring").toBeUndefined();
  expect(open(0x8000, 0x8001), "used before it was available").toBeUndefined();
  expect(open(0x8001, 0x0001), "a full ring").toBeDefined();
  expect(open(0x8002, 0x0001), "more than the ring holds").toBeUndefined();
  // Three of four are in flight: a chain of two has no place.
  const device = open(0x8003, 0x8000) as PackedQueue;
  for (let place = 0; place < 3; place++) driver.offerChain(place, [BUFFER]);
  driver.offerDescriptor(3, BUFFER, 1);
  driver.offerDescriptor(3, BUFFER, 0);
  driver.publish();
  expect(device.take(chain)).toBe(false);
  expect(device.fault).toBe("more descriptors are available than the ring has");
});
