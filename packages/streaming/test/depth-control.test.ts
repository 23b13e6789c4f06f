import { describe, expect, it } from "vitest";
import { DepthControl } from "../src/depth-control.ts";

/** Plays a worker that is always as full as it may be; each copy takes `stepMs`, of which `idleMs` are slept. */
function play(control: DepthControl, copies: number, stepMs: number, idleMs: number, full = true): void {
  let nowMs = 0;
  for (let copy = 0; copy < copies; copy++) {
    control.started(full ? control.depth : control.depth - 1);
    nowMs += stepMs;
    control.ended(idleMs, nowMs);
  }
}

describe("the number of copies in flight on one worker", () => {
  it("grows to the limit while the worker waits for the chain", () => {
    const control = new DepthControl(64);
    const start = control.depth;
    play(control, 200, 5, 4);
    expect(start).toBeLessThan(8);
    expect(control.depth).toBe(64);
  });

  it("stays where it is while the worker is busy, or has less than it may have", () => {
    const busy = new DepthControl(64);
    const start = busy.depth;
    play(busy, 200, 5, 0.1);
    expect(busy.depth).toBe(start);
    const starved = new DepthControl(64);
    play(starved, 200, 5, 4, false);
    expect(starved.depth).toBe(start);
  });

  it("is what the user says, within the worker's memory", () => {
    const control = new DepthControl(16, 9);
    play(control, 200, 5, 4);
    expect(control.depth).toBe(9);
    expect(new DepthControl(16, 99).depth).toBe(16);
  });
});
