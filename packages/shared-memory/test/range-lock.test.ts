import type { Co, Condition } from "@spindle/base";
import { beforeEach, describe, expect, it } from "vitest";
import { LockKind, RangeLock, type RangeLockHandle, type Thread, ThreadTable } from "../src/index.ts";

const { read, write, exclusiveWrite, copy, change } = LockKind;
const KINDS = [read, write, exclusiveWrite, copy, change] as const;

/** By [held][asked]: whether the second waits, as the compatibility table of docs/locking.md has it. */
const WAITS = [
  [false, false, false, false, true],
  [false, false, true, true, true],
  [false, true, true, true, true],
  [false, true, true, true, true],
  [true, true, true, true, true],
];

/** An acquisition driven by hand: `token` is set as soon as it is granted. */
class Request {
  token = -1;
  error: unknown;
  readonly #co: Co<number>;
  #condition: Condition | undefined;

  constructor(co: Co<number>) {
    this.#co = co;
    this.#step();
  }

  get waiting(): boolean {
    if (this.#condition?.ready() === true) this.#step();
    return this.#condition !== undefined;
  }

  #step(): void {
    this.#condition = undefined;
    try {
      const result = this.#co.next();
      if (result.done === true) this.token = result.value;
      else this.#condition = result.value as Condition;
    } catch (error) {
      this.error = error;
    }
  }
}

let table: ThreadTable;
let threads: Thread[];
let handle: RangeLockHandle;
let locks: RangeLock[];

function make(slots?: number): void {
  table = new ThreadTable(ThreadTable.create());
  threads = [0, 1, 2].map(() => table.attach());
  handle = RangeLock.create(slots === undefined ? {} : { slots });
  locks = threads.map((thread) => new RangeLock(handle, thread));
}

function ask(lock: number, kind: LockKind, start: number, end: number, canceled?: () => boolean): Request {
  return new Request((locks[lock] as RangeLock).acquire(kind, start, end, canceled));
}

function lock(index = 0): RangeLock {
  return locks[index] as RangeLock;
}

beforeEach(() => make());

describe("compatibility", () => {
  for (const held of KINDS) {
    for (const asked of KINDS) {
      it(`kind ${asked} ${WAITS[held]?.[asked] === true ? "waits for" : "passes"} kind ${held}`, () => {
        const first = ask(0, held, 0, 100);
        const waits = WAITS[held]?.[asked] === true;
        expect(lock(1).tryAcquire(asked, 100, 200)).toBeGreaterThanOrEqual(0);
        const token = lock(1).tryAcquire(asked, 99, 100);
        expect(token === -1).toBe(waits);
        if (token >= 0) lock(1).release(token);
        expect(lock(2).conflicts(asked, 50, 60)).toHaveLength(waits ? 1 : 0);
        const second = ask(1, asked, 50, 60);
        expect(second.waiting).toBe(waits);
        lock(0).release(first.token);
        expect(second.waiting).toBe(false);
        lock(1).release(second.token);
      });
    }
  }

  it("holds for offsets up to 2^53 - 1", () => {
    const end = Number.MAX_SAFE_INTEGER;
    const first = ask(0, copy, end - 1, end);
    expect(lock(1).tryAcquire(write, end - 2, end - 1)).toBeGreaterThanOrEqual(0);
    expect(lock(1).tryAcquire(write, end - 2, end)).toBe(-1);
    expect(lock(1).tryAcquire(change, 0, end)).toBe(-1);
    lock(0).release(first.token);
    expect(lock(1).tryAcquire(copy, end - 1, end)).toBeGreaterThanOrEqual(0);
  });
});

describe("order", () => {
  it("is first come, first served within a class", () => {
    const held = ask(0, exclusiveWrite, 0, 10);
    const first = ask(1, exclusiveWrite, 0, 20);
    const second = ask(2, write, 15, 20);
    expect([first.waiting, second.waiting]).toEqual([true, true]);
    lock(0).release(held.token);
    expect([first.waiting, second.waiting]).toEqual([false, true]);
    lock(1).release(first.token);
    expect(second.waiting).toBe(false);
  });

  it("lets a guest's request go before a copy that waits, but not more than 16 of them", () => {
    const held = ask(0, write, 0, 10);
    const copying = ask(1, copy, 0, 20);
    for (let round = 0; round < 16; round++) {
      const token = lock(2).tryAcquire(write, 15, 20);
      expect(token).toBeGreaterThanOrEqual(0);
      lock(2).release(token);
    }
    expect(copying.waiting).toBe(true);
    const late = ask(2, write, 15, 20);
    expect(late.waiting).toBe(true);
    expect(lock(2).tryAcquire(read, 0, 20)).toBeGreaterThanOrEqual(0);
    lock(0).release(held.token);
    expect([copying.waiting, late.waiting]).toEqual([false, true]);
    lock(1).release(copying.token);
    expect(late.waiting).toBe(false);
  });

  it("grants a copy at once when the request that it waited behind no longer goes before it", () => {
    const held = ask(0, exclusiveWrite, 12, 20);
    const holder = ask(0, write, 0, 3);
    const copying = ask(1, copy, 0, 10);
    const behind = ask(2, exclusiveWrite, 5, 20);
    lock(0).release(holder.token);
    // `behind` was queued ahead of the copy and waits for `held`; fifteen more overtake.
    expect([copying.waiting, behind.waiting]).toEqual([true, true]);
    const others = Array.from({ length: 15 }, () => ask(2, write, 8, 9));
    expect(copying.waiting).toBe(false);
    lock(1).release(copying.token);
    lock(0).release(held.token);
    expect(behind.waiting).toBe(false);
    lock(2).release(behind.token);
    expect(others.map((other) => other.waiting)).toEqual(others.map(() => false));
  });

  it("does not let new reads starve a change", () => {
    const reading = ask(0, read, 0, 10);
    const changing = ask(1, change, 0, 100);
    const later = ask(2, read, 50, 60);
    expect([changing.waiting, later.waiting]).toEqual([true, true]);
    lock(0).release(reading.token);
    expect([changing.waiting, later.waiting]).toEqual([false, true]);
    lock(1).release(changing.token);
    expect(later.waiting).toBe(false);
  });

  it("never makes a read wait for a copy, waiting or not, or for a write that waits for one", () => {
    ask(0, copy, 0, 10);
    ask(1, write, 0, 10);
    ask(1, copy, 0, 10);
    expect(lock(2).tryAcquire(read, 0, 10)).toBeGreaterThanOrEqual(0);
  });

  it("grants several compatible requests with one release", () => {
    const held = ask(0, exclusiveWrite, 0, 100);
    const writes = [0, 1, 2, 3].map((index) => ask(1, write, index * 10, index * 10 + 30));
    const seen = threads[1]?.snapshot();
    lock(0).release(held.token);
    expect(threads[1]?.snapshot()).not.toBe(seen);
    expect(writes.map((request) => request.waiting)).toEqual([false, false, false, false]);
  });
});

describe("canceling", () => {
  it("takes a waiting request out and lets those behind it go", () => {
    const held = ask(0, read, 0, 10);
    let canceled = false;
    const changing = ask(1, change, 0, 100, () => canceled);
    const behind = ask(2, read, 50, 60);
    expect(behind.waiting).toBe(true);
    canceled = true;
    expect(changing.waiting).toBe(false);
    expect(changing.error).toMatchObject({ code: "ECANCELED" });
    expect(behind.waiting).toBe(false);
    lock(0).release(held.token);
    lock(2).release(behind.token);
    expect(lock().inFlight()).toEqual([]);
  });
});

describe("slots", () => {
  it("run out for tryAcquire, and make acquire wait until one is free", () => {
    make(2);
    const tokens = [ask(0, read, 0, 1), ask(0, read, 0, 1)];
    expect(lock(1).tryAcquire(read, 0, 1)).toBe(-1);
    const third = ask(1, read, 0, 1);
    const fourth = ask(1, read, 5, 6);
    expect([third.waiting, fourth.waiting]).toEqual([true, true]);
    for (const { token } of tokens) lock(0).release(token);
    expect([third.waiting, fourth.waiting]).toEqual([false, false]);
    expect(lock().statistics().slotWaits).toBeGreaterThan(0);
    expect(lock().inFlight()).toHaveLength(2);
  });

  it("are 2048 unless told otherwise, for all threads together", () => {
    const tokens: number[] = [];
    for (;;) {
      const token = lock(tokens.length % 3).tryAcquire(write, tokens.length, tokens.length + 1);
      if (token < 0) break;
      tokens.push(token);
    }
    expect(tokens).toHaveLength(2048);
    expect(lock().conflicts(change, 100, 200)).toHaveLength(100);
    tokens.forEach((token, index) => {
      lock(index % 3).release(token);
    });
    expect(lock().inFlight()).toEqual([]);
    expect(lock().oldestTicket()).toBe(Number.POSITIVE_INFINITY);
  });

  it("can be released once only, also when another request has the slot by then", () => {
    const token = lock().tryAcquire(write, 0, 1);
    lock().release(token);
    expect(() => lock().release(token)).toThrow("not held");
    expect(lock().tryAcquire(write, 0, 1)).not.toBe(token);
    expect(() => lock().release(token)).toThrow("not held");
  });
});

describe("tickets", () => {
  it("tell whether a request began before a moment", () => {
    const before = lock().tryAcquire(read, 0, 10);
    const freedAt = lock(1).ticket();
    const after = lock(1).tryAcquire(read, 0, 10);
    expect(lock(2).oldestTicket()).toBeLessThanOrEqual(freedAt);
    lock().release(before);
    expect(lock(2).oldestTicket()).toBeGreaterThan(freedAt);
    lock(1).release(after);
    expect(lock(2).oldestTicket()).toBe(Number.POSITIVE_INFINITY);
  });

  it("go on above 2^32", () => {
    new Int32Array(handle.memory)[16] = -1;
    const before = lock().ticket();
    expect(before).toBe(2 ** 32 - 1);
    lock().tryAcquire(read, 0, 10);
    expect(lock().ticket()).toBe(2 ** 32);
    expect(lock().oldestTicket()).toBe(2 ** 32);
  });
});

describe("recovery", () => {
  it("frees what a dead thread held and waited for, grants, and rings everyone", () => {
    const dead = [ask(0, exclusiveWrite, 0, 10), ask(0, copy, 50, 60)];
    const waiter = ask(1, write, 5, 20);
    ask(0, change, 0, 100);
    const behind = ask(2, read, 80, 90);
    expect([waiter.waiting, behind.waiting]).toEqual([true, true]);
    const seen = threads.map((thread) => thread.snapshot());
    expect(lock(2).recover(0)).toBe(3);
    expect(threads.map((thread) => thread.snapshot() !== seen[thread.index])).toEqual([true, true, true]);
    expect([waiter.waiting, behind.waiting]).toEqual([false, false]);
    expect(lock(1).inFlight()).toHaveLength(2);
    expect(() => lock(0).release(dead[0]?.token as number)).toThrow("not held");
    expect(lock(2).recover(0)).toBe(0);
  });
});

describe("diagnostics", () => {
  it("show requests with their threads, and count who waited for whom", () => {
    ask(0, copy, 0, 10);
    ask(1, write, 5, 6);
    ask(2, exclusiveWrite, 5, 6);
    expect(lock().inFlight()).toEqual([
      { kind: copy, start: 0, end: 10, thread: 0, ticket: 1, waiting: false },
      { kind: write, start: 5, end: 6, thread: 1, ticket: 2, waiting: true },
      { kind: exclusiveWrite, start: 5, end: 6, thread: 2, ticket: 3, waiting: true },
    ]);
    const { requests, waits, waitedFor } = lock().statistics();
    expect([requests, waits, waitedFor[write]?.[copy], waitedFor[exclusiveWrite]?.[copy]]).toEqual([3, 2, 1, 1]);
  });
});
