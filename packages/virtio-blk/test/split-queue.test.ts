/** The device's side of the ring against the driver's, without a device: virtio 1.2 §2.7. */
import { describe, expect, test } from "vitest";
import { DescriptorChain } from "../src/descriptor-chain.ts";
import { planGuest } from "../src/driver/guest-driver.ts";
import { SplitDriverRing } from "../src/driver/split-driver-ring.ts";
import { GuestMemory } from "../src/guest-memory.ts";
import { SplitQueue } from "../src/split-queue.ts";
import { eventReached } from "../src/virtqueue.ts";

function rings(
  size: number,
  eventIndex: boolean,
): { driver: SplitDriverRing; device: SplitQueue; chain: DescriptorChain } {
  const { queues, length } = planGuest({ queueSize: size, dataBytes: 4096 });
  const memory = new GuestMemory(GuestMemory.create(length));
  const layout = (queues[0] as (typeof queues)[0]).layout;
  const features = { packed: false, eventIndex, indirect: true, inOrder: false };
  const device = SplitQueue.open(memory, layout, features) as SplitQueue;
  return { driver: new SplitDriverRing(memory, layout, features), device, chain: new DescriptorChain(size) };
}

/** Every size that a split queue can have. */
const POWERS = Array.from({ length: 16 }, (_, power) => 2 ** power);

describe.each([false, true])("with the event index %s", (eventIndex) => {
  test.each(POWERS)("70,000 requests pass a queue of %i entries in order", (size) => {
    const { driver, device, chain } = rings(size, eventIndex);
    let submitted = 0;
    let taken = 0;
    let completed = 0;
    for (let index = 0; index < size; index++) driver.setDescriptor(index, { address: 0, length: 16 });
    while (completed < 70_000) {
      // Batches of all sizes, so that the indices wrap inside of one as well.
      const batch = 1 + (submitted % size);
      for (let count = 0; count < batch; count++) driver.offer(submitted++ % size);
      driver.publish();
      while (device.take(chain)) {
        if (chain.head !== taken % size) throw new Error(`took ${chain.head} as number ${taken}`);
        device.put(chain.head, taken++ % 1000);
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
});

test("2.7.7.2: without the event index a notification is sent when flags is 0 and none when it is 1", () => {
  const { driver, device } = rings(4, false);
  driver.requestInterrupts();
  device.put(0, 1);
  expect(device.publish()).toBe(true);
  driver.suppressInterrupts();
  device.put(1, 1);
  expect(device.publish()).toBe(false);
});

test("2.7.7.2: with the event index a notification is sent when the index passes used_event, and only then", () => {
  const { driver, device } = rings(8, true);
  // used_event is 0: the first used buffer notifies.
  device.put(0, 1);
  expect(device.publish()).toBe(true);
  device.put(1, 1);
  expect(device.publish()).toBe(false);
  driver.takeUsed();
  driver.takeUsed();
  driver.requestInterrupts();
  device.put(2, 1);
  device.put(3, 1);
  expect(device.publish()).toBe(true);
  device.put(4, 1);
  expect(device.publish()).toBe(false);
});

test("nothing put means nothing to notify of", () => {
  expect(rings(4, false).device.publish()).toBe(false);
});

test("2.7.10: the driver is told to kick only while the device waits for kicks", () => {
  for (const eventIndex of [false, true]) {
    const { driver, device, chain } = rings(8, eventIndex);
    for (let index = 0; index < 8; index++) driver.setDescriptor(index, { address: 0, length: 1 });
    device.requestKicks();
    driver.offer(0);
    expect(driver.publish()).toBe(true);
    device.suppressKicks();
    expect(device.take(chain)).toBe(true);
    driver.offer(1);
    expect(driver.publish()).toBe(false);
    expect(device.take(chain)).toBe(true);
    device.requestKicks();
    expect(device.hasAvailable).toBe(false);
    driver.offer(2);
    driver.offer(3);
    expect(driver.publish()).toBe(true);
    expect(device.hasAvailable).toBe(true);
  }
});

test("an event is passed exactly when the index moves over it, at every place of the 65,536", () => {
  for (const before of [0, 1, 32_767, 65_530, 65_535]) {
    for (let step = 1; step <= 12; step++) {
      const after = (before + step) & 0xffff;
      for (let at = -3; at < 16; at++) {
        const event = (before + at) & 0xffff;
        expect(eventReached(event, after, before), `${event} in ${before}..${after}`).toBe(at >= 0 && at < step);
      }
    }
  }
});

test("a queue goes on where another server left it", () => {
  const { queues, length } = planGuest({ queueSize: 4, dataBytes: 4096 });
  const memory = new GuestMemory(GuestMemory.create(length));
  const layout = (queues[0] as (typeof queues)[0]).layout;
  const features = { packed: false, eventIndex: true, indirect: true, inOrder: false };
  const driver = new SplitDriverRing(memory, layout, features);
  const chain = new DescriptorChain(4);
  for (let index = 0; index < 4; index++) driver.setDescriptor(index, { address: 0, length: 1 });
  let position = { nextAvailable: 0, nextUsed: 0 };
  for (let round = 0; round < 10; round++) {
    const device = SplitQueue.open(memory, layout, features, position) as SplitQueue;
    driver.offer(round % 4);
    driver.publish();
    expect(device.take(chain)).toBe(true);
    expect(device.take(chain)).toBe(false);
    device.put(chain.head, 0);
    device.publish();
    expect(driver.takeUsed()).toEqual({ id: round % 4, length: 0 });
    position = device.position;
  }
});
