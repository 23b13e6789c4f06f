import { execFileSync } from "node:child_process";
import { AsyncRunner, type Co, sleep } from "@spindle/base";
import { describe, expect, it } from "vitest";
import { nodeEnvironment, nodeEventLoop } from "../src/index.ts";

describe("environment", () => {
  it("has numbers that differ, over the whole range", () => {
    const { random } = nodeEnvironment();
    const numbers = Array.from({ length: 2000 }, () => random.u32());
    expect(new Set(numbers).size).toBeGreaterThan(1990);
    expect(Math.max(...numbers)).toBeGreaterThan(0.99 * 2 ** 32);
    expect(numbers.every((number) => Number.isInteger(number) && number >= 0 && number < 2 ** 32)).toBe(true);
  });
});

describe("event loop", () => {
  it("lets timers and I/O through while coroutines keep it busy", async () => {
    const loop = nodeEventLoop();
    let turns = 0;
    let over = false;
    const turn = (): void => {
      turns += 1;
      if (!over) loop.defer(turn);
    };
    turn();
    await new Promise((resolve) => setTimeout(resolve, 20));
    over = true;
    expect(turns).toBeGreaterThan(10);
  });

  it("takes delays longer than a timer can", () => {
    const loop = nodeEventLoop();
    let rang = false;
    const cancel = loop.timer(2 ** 40, () => {
      rang = true;
    });
    expect(rang).toBe(false);
    cancel();
  });

  it("sleeps for about as long as it should", async () => {
    const loop = nodeEventLoop();
    const body = function* (): Co<number> {
      const begun = loop.now();
      yield* sleep(loop, 15);
      return loop.now() - begun;
    };
    const durationMs = await new AsyncRunner(loop).run(body());
    expect(durationMs).toBeGreaterThanOrEqual(15);
    expect(durationMs).toBeLessThan(500);
  });

  it("keeps the process alive exactly as long as something runs", () => {
    const script = `
      import { nodeEventLoop } from ${JSON.stringify(import.meta.resolve("../src/index.ts"))};
      const loop = nodeEventLoop();
      const release = [loop.keepAlive(), loop.keepAlive()];
      setTimeout(() => release[0](), 10).unref();
      setTimeout(() => { process.stdout.write("released"); release[1](); }, 50).unref();
    `;
    const options = ["--conditions=spindle-source", "--input-type=module", "-e", script];
    expect(execFileSync(process.execPath, options, { timeout: 20_000 }).toString()).toBe("released");
  });
});
