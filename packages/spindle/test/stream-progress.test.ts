import { describe, expect, it } from "vitest";
import { ProgressMeter } from "../src/stream-progress.ts";

const job = (offset: number) => ({ offset, len: 1000, status: "running", ioStatus: "ok" }) as const;

describe("the progress meter", () => {
  it("never goes back, though the job's offset may", () => {
    const meter = new ProgressMeter(0);
    expect(meter.look(1000, job(500)).transferred).toBe(500);
    expect(meter.look(2000, job(300)).transferred).toBe(500);
  });

  it("tells the rate of the last seconds and what is left at it", () => {
    const meter = new ProgressMeter(0);
    expect(meter.look(0, job(0))).toMatchObject({ rate: 0, eta: null, elapsed: 0 });
    meter.look(5000, job(500));
    meter.look(7000, job(520));
    expect(meter.look(9000, job(540))).toMatchObject({ rate: 10, eta: 46, elapsed: 9 });
  });

  it("has nothing left at the end", () => {
    expect(new ProgressMeter(0).look(10, job(1000)).eta).toBe(0);
  });
});
