import { GiB, SyncRunner } from "@spindle/base";
import { describe, expect, it } from "vitest";
import { type BlockDriver, DriverRegistry, IoVector, nullDriver, type OpenRequest } from "../src/index.ts";
import { clock } from "./one-thread.ts";

const runner = new SyncRunner(clock);

function open(options: Record<string, unknown>): BlockDriver {
  return runner.run(new DriverRegistry([nullDriver]).get("null-co").open({ options } as OpenRequest));
}

describe("null-co", () => {
  it("is as long as it is told, and reads as zeros whatever was written", () => {
    expect(open({}).length()).toBe(GiB);
    const driver = open({ size: 4096 });
    expect(driver.length()).toBe(4096);
    runner.run(driver.write(0, IoVector.of(new Uint8Array(512).fill(7)), {}));
    const bytes = new Uint8Array(512).fill(9);
    runner.run(driver.read(0, IoVector.of(bytes)));
    expect(bytes.every((byte) => byte === 0)).toBe(true);
    expect(runner.run(driver.blockStatus(0, 4096))).toMatchObject({ length: 4096, zero: true, data: false });
  });

  it("is not of a size that cannot be", () => {
    expect(() => open({ size: -1 })).toThrow("non-negative");
  });
});
