import { describe, expect, it } from "vitest";
import {
  AssertionError,
  AsyncRunner,
  type Co,
  CoMutex,
  type EventLoop,
  join,
  type Operation,
  perform,
  SyncRunner,
  sleep,
  until,
} from "../src/index.ts";

const clock = { now: () => performance.now() };

const eventLoop: EventLoop = {
  now: () => performance.now(),
  defer: (callback) => void setImmediate(callback),
  timer(delayMs, callback) {
    const timer = setTimeout(callback, delayMs);
    return () => clearTimeout(timer);
  },
  keepAlive() {
    const timer = setInterval(() => {}, 1 << 30);
    return () => clearInterval(timer);
  },
};

/** An operation that gives `value`, or fails with it when it is an error. */
function operation<T>(value: T): Operation & { perform(): T } {
  return {
    kind: "operation",
    perform() {
      if (value instanceof Error) throw value;
      return value;
    },
    start(settle) {
      setImmediate(() => (value instanceof Error ? settle(value) : settle(undefined, value)));
    },
  };
}

const runners = [
  ["SyncRunner", async <T>(co: Co<T>) => new SyncRunner(clock).run(co)],
  ["AsyncRunner", <T>(co: Co<T>) => new AsyncRunner(eventLoop).run(co)],
] as const;

describe.each(runners)("%s", (_name, run) => {
  it("resumes a coroutine with what its operation gave", async () => {
    expect(
      await run(
        (function* () {
          return (yield* perform(operation(20))) + 1;
        })(),
      ),
    ).toBe(21);
  });

  it("throws an operation's error inside the coroutine, which may catch it and go on", async () => {
    function* body(): Co<string> {
      try {
        yield* perform(operation(new Error("disk on fire")));
        return "not reached";
      } catch (error) {
        return `${(error as Error).message}, ${yield* perform(operation("still here"))}`;
      }
    }
    expect(await run(body())).toBe("disk on fire, still here");
  });

  it("rejects with the error that a coroutine does not catch", async () => {
    await expect(run(perform(operation(new Error("no"))))).rejects.toThrow("no");
  });

  it("joins children in order and runs them side by side", async () => {
    const log: string[] = [];
    function* child(name: string, ms: number): Co<string> {
      log.push(`${name} begins`);
      yield* sleep(clock, ms);
      log.push(`${name} ends`);
      return name;
    }
    expect(await run(join([child("slow", 30), child("fast", 1)]))).toEqual(["slow", "fast"]);
    expect(log).toEqual(["slow begins", "fast begins", "fast ends", "slow ends"]);
  });

  it("lets every child end before a join fails with the first error", async () => {
    let ended = false;
    function* slow(): Co<void> {
      yield* sleep(clock, 10);
      ended = true;
    }
    function* bad(): Co<void> {
      yield* perform(operation(new Error("first")));
    }
    await expect(run(join([bad(), slow()]))).rejects.toThrow("first");
    expect(ended).toBe(true);
  });

  it("ends a sleep early when it is interrupted by another coroutine", async () => {
    let interrupted = false;
    const begin = performance.now();
    function* interrupter(): Co<void> {
      yield* sleep(clock, 5);
      interrupted = true;
    }
    await run(join([sleep(clock, 10_000, () => interrupted), interrupter()]));
    expect(performance.now() - begin).toBeLessThan(5_000);
  });

  it("serves the waiters of a mutex in the order in which they came", async () => {
    const mutex = new CoMutex();
    const order: number[] = [];
    function* user(index: number): Co<void> {
      yield* mutex.lock();
      try {
        yield* sleep(clock, 1);
        order.push(index);
      } finally {
        mutex.unlock();
      }
    }
    await run(join([0, 1, 2, 3].map(user)));
    expect(order).toEqual([0, 1, 2, 3]);
    expect(mutex.locked).toBe(false);
  });
});

describe("SyncRunner", () => {
  it("says that nobody can make a condition true instead of waiting for ever", () => {
    expect(() => new SyncRunner(clock).run(until(() => false))).toThrow(AssertionError);
  });
});

describe("AsyncRunner", () => {
  it("looks at conditions again when it is woken", async () => {
    const runner = new AsyncRunner(eventLoop);
    let open = false;
    setTimeout(() => {
      open = true;
      runner.wake();
    }, 2);
    await runner.run(until(() => open));
    expect(open).toBe(true);
  });

  it("lets the event loop have its turn while coroutines never wait for it", async () => {
    const runner = new AsyncRunner(eventLoop);
    let ticks = 0;
    const timer = setInterval(() => ticks++, 1);
    let rounds = 0;
    function* busy(): Co<void> {
      const end = performance.now() + 200;
      while (performance.now() < end) {
        // Not ready at the first look, and ready at every later one: it is parked and goes on at once.
        let looks = 0;
        yield { kind: "condition", ready: () => looks++ > 0 };
        rounds += 1;
      }
    }
    await runner.run(join([busy(), busy()]));
    clearInterval(timer);
    expect(rounds).toBeGreaterThan(100);
    expect(ticks).toBeGreaterThan(3);
  });
});
