/** Many requests at once: how many interrupts they cost, when the driver has them back, and how many are taken. */
import { ThreadTable } from "@spindle/shared-memory";
import { expect, test } from "vitest";
import { DeviceState } from "../src/device-state.ts";
import { OneThread } from "./one-thread.ts";

test("one interrupt is raised for a batch", () => {
  const guest = new OneThread({ queueSize: 32 });
  const queue = guest.queue();
  const table = new ThreadTable(guest.device.threads);
  const waiting = table.attach();
  const state = new DeviceState(guest.device);
  state.queues[0]!.interruptThread = waiting.index;
  const before = waiting.snapshot();
  for (let count = 0; count < 32; count++) queue.submit({ type: 4 });
  queue.commit();
  guest.poll();
  expect(waiting.snapshot() - before).toBe(1);
  expect(queue.collect()).toBe(32);
});

test("the driver has the first of many requests back while the last are still to be done", () => {
  const guest = new OneThread({ queueSize: 32 });
  const queue = guest.queue();
  let back = 0;
  const backBefore: number[] = [];
  guest.disk.read = function* () {
    back += queue.collect();
    backBefore.push(back);
  };
  for (let count = 0; count < 32; count++) queue.submit({ type: 0, length: 512 });
  queue.commit();
  guest.poll();
  expect(backBefore.at(-1)).toBeGreaterThanOrEqual(16);
});

test("a guest that is as quick as its server does not keep the thread from everything else", () => {
  const guest = new OneThread({ queueSize: 16 });
  const queue = guest.queue();
  const served = guest.serveByHand(guest.memory);
  let requests = 0;
  const inFlight = new Set<number>();
  const fill = (): void => {
    for (let slot = queue.submit({ type: 0, length: 512 }); slot >= 0; slot = queue.submit({ type: 0, length: 512 }))
      inFlight.add(slot);
    queue.commit();
  };
  guest.disk.read = function* () {
    requests += 1;
    queue.collect();
    for (const slot of [...inFlight].filter((each) => queue.ended(each))) {
      queue.finish(slot);
      inFlight.delete(slot);
    }
    if (requests < 1000) fill();
  };
  fill();
  served.poll(true);
  expect(requests).toBe(16);
});

test("a guest that offers more than the queue holds has no more in flight than the queue's size", () => {
  const guest = new OneThread({ queueSize: 8 });
  const ring = guest.ring();
  guest.header(guest.spare, 4);
  ring.setDescriptor(0, { address: guest.spare, length: 16, flags: 1, next: 1 });
  ring.setDescriptor(1, { address: guest.spare + 16, length: 1, flags: 2 });
  guest.disk.open = false;
  for (let round = 0; round < 20; round++) {
    for (let count = 0; count < 8; count++) ring.offer(0);
    ring.publish();
    guest.poll();
  }
  expect(guest.disk.log.length).toBe(8);
});
