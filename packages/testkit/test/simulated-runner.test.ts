import { BlockError, type Co, CoMutex, join, sleep, until } from "@spindle/base";
import { IoVector } from "@spindle/block";
import { describe, expect, it } from "vitest";
import { MemoryDriver, SimulatedRunner } from "../src/index.ts";

/** Three writers of one byte each, side by side, and the order in which they completed. */
function raceOf(runner: SimulatedRunner): { order: string; content: number | undefined } {
  const driver = new MemoryDriver(1);
  let order = "";
  const writer = function* (value: number): Co<void> {
    yield* driver.write(0, IoVector.of(Uint8Array.of(value)));
    order += value;
  };
  runner.runAll([writer(1), writer(2), writer(3)]);
  return { order, content: driver.content.toBytes()[0] };
}

describe("simulated runner", () => {
  it("replays exactly by seed", () => {
    for (let seed = 1; seed <= 20; seed++) {
      const [one, other] = [new SimulatedRunner(seed), new SimulatedRunner(seed)];
      expect(raceOf(one)).toEqual(raceOf(other));
      expect(one.fingerprint).toBe(other.fingerprint);
      expect(one.clock.now()).toBe(other.clock.now());
    }
  });

  it("reaches every order of completion, and every last effect beside each of them", () => {
    const orders = new Set<string>();
    const outcomes = new Set<string>();
    for (let seed = 1; seed <= 1000; seed++) {
      const { order, content } = raceOf(new SimulatedRunner(seed));
      orders.add(order);
      outcomes.add(`${order} ${content}`);
    }
    expect(orders.size).toBe(6);
    expect(outcomes.size).toBe(18);
  });

  it("lets a coroutine whose condition became true go before others that could go on", () => {
    const orders = new Set<string>();
    for (let seed = 1; seed <= 200; seed++) {
      const runner = new SimulatedRunner(seed, { stallChance: 0 });
      let open = false;
      let order = "";
      const waiter = function* (): Co<void> {
        yield* until(() => open);
        order += "w";
      };
      const step = function* (name: string): Co<void> {
        open = true;
        order += name;
      };
      runner.spawn(waiter(), () => {});
      runner.runAll([step("a"), step("b")]);
      runner.drain();
      orders.add(order);
    }
    expect(orders).toContain("awb");
    expect(orders).toContain("abw");
  });

  it("lets a write take effect after one that was issued later", () => {
    const last = new Set<number | undefined>();
    for (let seed = 1; seed <= 100; seed++) {
      const runner = new SimulatedRunner(seed, { stallChance: 0, latencyMs: [1, 2] });
      const driver = new MemoryDriver(1);
      const writer = function* (delayMs: number): Co<void> {
        yield* sleep(runner.clock, delayMs);
        yield* driver.write(0, IoVector.of(Uint8Array.of(delayMs * 10)));
      };
      runner.runAll([writer(0.1), writer(0.2)]);
      last.add(driver.content.toBytes()[0]);
    }
    expect([...last].sort()).toEqual([1, 2]);
  });

  it("lets virtual time pass only when nobody can go on", () => {
    const runner = new SimulatedRunner(3);
    const begun = performance.now();
    const woken: number[] = [];
    const sleeper = function* (durationMs: number): Co<void> {
      yield* sleep(runner.clock, durationMs);
      woken.push(runner.clock.now());
    };
    runner.runAll([sleeper(3_600_000), sleeper(1000), sleeper(0.5)]);
    expect(woken.map(Math.round)).toEqual([1, 1000, 3_600_000]);
    expect(performance.now() - begun).toBeLessThan(5000);
  });

  it("reports a deadlock with who waits for what", () => {
    const runner = new SimulatedRunner(4);
    const [first, second] = [new CoMutex(), new CoMutex()];
    const taker = function* (one: CoMutex, other: CoMutex): Co<void> {
      yield* one.lock();
      yield* sleep(runner.clock, 1);
      yield* other.lock();
    };
    expect(() => runner.runAll([taker(first, second), taker(second, first)], "taker")).toThrow(
      /seed 4: deadlock at .* waiting:\n {2}taker 0: until .*serving.*\n {2}taker 1: until .*serving/,
    );
  });

  it("takes an endless loop for one", () => {
    const runner = new SimulatedRunner(5, { stepsMax: 1000 });
    const driver = new MemoryDriver(1);
    const endless = function* (): Co<void> {
      for (;;) yield* driver.flush();
    };
    expect(() => runner.run(endless(), "endless")).toThrow(
      /seed 5: no end after 1000 steps\n {2}endless: an operation/,
    );
  });

  it("throws what an operation throws into the coroutine that asked for it", () => {
    const runner = new SimulatedRunner(6);
    const body = function* (): Co<string> {
      try {
        yield {
          kind: "operation",
          perform() {
            throw new BlockError("ENOSPC", "full");
          },
          start() {},
        };
        return "";
      } catch (error) {
        return (error as BlockError).code;
      }
    };
    expect(runner.run(body())).toBe("ENOSPC");
    const results = runner.run(join([body(), body()]));
    expect(results).toEqual(["ENOSPC", "ENOSPC"]);
    expect(runner.alive).toBe(0);
  });
});
