import { IoRing, sharingCalls } from "@spindle/host-node";
import { ThreadTable } from "@spindle/shared-memory";
import { afterAll, describe, expect, it } from "vitest";
import { RingWaiter } from "../src/ring-waiter.ts";

const LONG_MS = 5000;

const calls = sharingCalls();
const ring = IoRing.open(8);
afterAll(() => ring?.close());

describe.skipIf(ring === null)("a sleep in a ring", () => {
  const event = calls.createEvent();
  const kick = calls.createEvent();
  const table = new ThreadTable(ThreadTable.create(), (descriptor) => calls.signal(descriptor));
  const thread = table.attach();
  const sleeps: number[] = [];
  const waiter = new RingWaiter(thread, event, ring as IoRing, (durationMs) => sleeps.push(durationMs));
  waiter.descriptors = [kick];

  function sleepingMs(seen: number, timeoutMs: number): number {
    const begin = performance.now();
    waiter.wait(seen, timeoutMs);
    return performance.now() - begin;
  }

  it("lasts as long as it is told when nothing happens", () => {
    expect(sleepingMs(waiter.snapshot(), 30)).toBeGreaterThanOrEqual(29);
    expect(sleeps).toEqual([]);
  });

  it("is ended by a kick, which is told of, and by a ring of the doorbell", () => {
    const seen = waiter.snapshot();
    calls.signal(kick);
    expect(sleepingMs(seen, LONG_MS)).toBeLessThan(LONG_MS / 2);
    expect(sleeps.length).toBe(1);
    const again = waiter.snapshot();
    table.ring(thread.index);
    expect(sleepingMs(again, LONG_MS)).toBeLessThan(LONG_MS / 2);
    expect(sleeps.length).toBe(1);
  });

  it("does not begin when a kick was called back for since the look", () => {
    const seen = waiter.snapshot();
    calls.signal(kick);
    ring?.submit();
    for (let turn = 0; turn < 3; turn++) {
      ring?.submitAndWait(1);
      ring?.reap();
    }
    expect(sleepingMs(seen, LONG_MS)).toBeLessThan(LONG_MS / 2);
  });

  it("takes no notice of a kick that it no longer watches", () => {
    waiter.descriptors = [];
    const seen = waiter.snapshot();
    calls.signal(kick);
    // The end of the watch is something that has ended, too.
    const slept = Array.from({ length: 4 }, () => sleepingMs(seen, 30));
    expect(Math.max(...slept)).toBeGreaterThanOrEqual(29);
    expect(waiter.snapshot()).toBe(seen);
  });
});
