import { isBlockError } from "@spindle/base";
import { describe, expect, it } from "vitest";
import { Bitmap, MAX_THREADS, Ring, ThreadTable } from "../src/index.ts";

describe("ThreadTable", () => {
  it("gives every thread its own index and takes it back", () => {
    const handle = ThreadTable.create();
    const table = new ThreadTable(handle);
    const threads = Array.from({ length: MAX_THREADS }, () => table.attach());
    expect(new Set(threads.map((thread) => thread.index)).size).toBe(MAX_THREADS);
    expect(() => new ThreadTable(handle).attach()).toThrow(expect.objectContaining({ code: "EAGAIN" }));
    threads[5]?.detach();
    expect(new ThreadTable(handle).attach().index).toBe(5);
  });

  it("changes the number of the thread that is rung, and of no other", () => {
    const table = new ThreadTable(ThreadTable.create());
    const [one, other] = [table.attach(), table.attach()];
    const seen = [one.snapshot(), other.snapshot()];
    table.ring(other.index);
    expect(one.snapshot()).toBe(seen[0]);
    expect(other.snapshot()).not.toBe(seen[1]);
    one.ring();
    expect(one.snapshot()).not.toBe(seen[0]);
  });
});

describe("Thread as a waiter", () => {
  it("does not sleep when it was rung after the look", () => {
    const thread = new ThreadTable(ThreadTable.create()).attach();
    const seen = thread.snapshot();
    thread.ring();
    const start = performance.now();
    thread.wait(seen, 10_000);
    expect(performance.now() - start).toBeLessThan(1000);
    expect(thread.waitAsync(seen)).toBeUndefined();
  });

  it("sleeps for no longer than it was told", () => {
    const thread = new ThreadTable(ThreadTable.create()).attach();
    const start = performance.now();
    thread.wait(thread.snapshot(), 20);
    expect(performance.now() - start).toBeGreaterThan(15);
  });

  it("is woken in a descriptor, by a ring before and during its sleep, and by none after it", () => {
    const handle = ThreadTable.create();
    const woken: number[] = [];
    const other = new ThreadTable(handle, (descriptor) => woken.push(descriptor));
    const thread = new ThreadTable(handle).attach();
    let slept = 0;
    const seen = thread.snapshot();
    thread.waitIn(7, seen, () => {
      slept += 1;
      other.ring(thread.index);
    });
    expect([slept, woken]).toEqual([1, [7]]);
    thread.waitIn(7, seen, () => {
      slept += 1;
    });
    expect(slept).toBe(1);
    other.ring(thread.index);
    expect(woken).toEqual([7]);
  });

  it("is woken asynchronously by a ring", async () => {
    const handle = ThreadTable.create();
    const thread = new ThreadTable(handle).attach();
    const first = thread.waitAsync(thread.snapshot());
    const second = thread.waitAsync(thread.snapshot(), 60_000);
    expect(first).toBeInstanceOf(Promise);
    new ThreadTable(handle).ring(thread.index);
    await Promise.all([first, second]);
    const third = thread.waitAsync(thread.snapshot(), 5);
    await third;
  });
});

describe("Ring", () => {
  it("hands records over in order, fills up and drains, whatever its capacity", () => {
    for (const capacity of [1, 2, 3, 5, 8]) {
      const ring = new Ring(new SharedArrayBuffer(Ring.bytes(capacity, 2)), 0, capacity, 2);
      const record = new Float64Array(2);
      let pushed = 0;
      let popped = 0;
      for (let round = 0; round < 50; round++) {
        for (let burst = 0; burst <= round % (capacity + 2); burst++) {
          const room = pushed - popped < capacity;
          expect(ring.push([pushed, 2 ** 53 - 1 - pushed])).toBe(room);
          if (room) pushed += 1;
          expect(ring.length).toBe(pushed - popped);
          expect(ring.free).toBe(capacity - (pushed - popped));
        }
        for (let burst = 0; burst <= round % 3; burst++) {
          const some = pushed > popped;
          expect(ring.pop(record)).toBe(some);
          if (!some) continue;
          expect([...record]).toEqual([popped, 2 ** 53 - 1 - popped]);
          popped += 1;
        }
      }
    }
  });

  it("stands at any offset of a larger memory and leaves its neighbours alone", () => {
    const bytes = Ring.bytes(2, 1);
    expect(bytes % 8).toBe(0);
    const memory = new SharedArrayBuffer(3 * bytes);
    const ring = new Ring(memory, bytes, 2, 1);
    ring.push([1]);
    ring.push([2]);
    expect(new Uint8Array(memory, 0, bytes).every((byte) => byte === 0)).toBe(true);
    expect(new Uint8Array(memory, 2 * bytes).every((byte) => byte === 0)).toBe(true);
  });
});

describe("Bitmap", () => {
  it("claims every slot once and again after its release", () => {
    const bitmap = new Bitmap(new SharedArrayBuffer(Bitmap.bytes(70)), 0, 70);
    const claimed = Array.from({ length: 70 }, () => bitmap.claim());
    expect(new Set(claimed).size).toBe(70);
    expect(Math.max(...claimed)).toBe(69);
    expect(bitmap.claim()).toBe(-1);
    bitmap.release(33);
    expect(bitmap.claim()).toBe(33);
    expect(() => {
      bitmap.release(12);
      bitmap.release(12);
    }).toThrow("release of a slot");
  });

  it("tells the one caller that changed a bit", () => {
    const bitmap = new Bitmap(new SharedArrayBuffer(Bitmap.bytes(64)), 0, 64);
    expect([bitmap.set(31), bitmap.set(31), bitmap.test(31), bitmap.test(32)]).toEqual([true, false, true, false]);
    expect(bitmap.count()).toBe(1);
    expect([bitmap.clear(31), bitmap.clear(31)]).toEqual([true, false]);
  });
});

it("throws errors that survive a thread boundary", () => {
  const table = new ThreadTable(ThreadTable.create());
  try {
    for (;;) table.attach();
  } catch (error) {
    expect(isBlockError(error, "EAGAIN")).toBe(true);
  }
});
