import { type Co, SECTOR_SIZE } from "@spindle/base";
import { IoVector } from "@spindle/block";
import { describe, expect, it } from "vitest";
import { describeDriver } from "../src/driver-conformance.ts";
import { FaultyDriver, MemoryDriver, SimulatedRunner } from "../src/index.ts";

const runner = new SimulatedRunner(1);

describeDriver("memory, with no fault armed", () => ({
  *open(length) {
    return new FaultyDriver(new MemoryDriver(length));
  },
  run: (co) => runner.run(co),
}));

function outcome(co: Co<unknown>): string {
  try {
    runner.run(co);
    return "done";
  } catch (error) {
    return (error as { code: string }).code;
  }
}

describe("faulty driver", () => {
  const sectors = (count: number, value: number): IoVector =>
    IoVector.of(new Uint8Array(count * SECTOR_SIZE).fill(value));

  it("fails the request that was asked for, once or from then on", () => {
    const driver = new FaultyDriver(new MemoryDriver(4096));
    const disarm = driver.fail({ operations: ["write"], nth: 2, code: "ENOSPC" });
    const write = (): string => outcome(driver.write(0, sectors(1, 1), {}));
    expect([write(), outcome(driver.flush()), write(), write()]).toEqual(["done", "done", "ENOSPC", "done"]);
    disarm();
    driver.fail({ nth: 2, sticky: true });
    expect([write(), write(), outcome(driver.flush())]).toEqual(["done", "EIO", "EIO"]);
    expect(driver.requests).toBe(7);
    expect(driver.failures).toBe(3);
  });

  it("meets only requests in its range", () => {
    const driver = new FaultyDriver(new MemoryDriver(4096));
    driver.fail({ range: { offset: 1024, length: 512 }, sticky: true });
    expect(outcome(driver.read(0, sectors(2, 0)))).toBe("done");
    expect(outcome(driver.read(512, sectors(2, 0)))).toBe("EIO");
    expect(outcome(driver.discard(1536, 512))).toBe("done");
    expect(outcome(driver.discard(1535, 1))).toBe("EIO");
  });

  it("lets as much of a failed write through as it should", () => {
    for (const [reached, expected] of [
      ["nothing", [0, 0, 0, 0]],
      ["half", [7, 7, 0, 0]],
      ["all", [7, 7, 7, 7]],
    ] as const) {
      const memory = new MemoryDriver(4 * SECTOR_SIZE);
      const driver = new FaultyDriver(memory);
      driver.fail({ operations: ["write"], reached });
      expect(outcome(driver.write(0, sectors(4, 7), {}))).toBe("EIO");
      const bytes = memory.content.toBytes();
      expect([0, 1, 2, 3].map((sector) => bytes[sector * SECTOR_SIZE])).toEqual(expected);
    }
  });
});
