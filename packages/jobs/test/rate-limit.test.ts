import { SeededRandom } from "@spindle/base";
import { describe, expect, it } from "vitest";
import { RateLimit } from "../src/rate-limit.ts";

describe("the rate limit", () => {
  it("keeps the mean at the speed, whatever the size of one copy is", () => {
    for (const [seed, speed] of [
      [1, 64 * 1024],
      [2, 1024 * 1024],
      [3, 300 * 1024 * 1024],
    ] as const) {
      const random = new SeededRandom(seed);
      let nowMs = 0;
      const limit = new RateLimit({ now: () => nowMs }, speed);
      let bytes = 0;
      while (nowMs < 60_000) {
        const delay = limit.delayMs();
        if (delay > 0) {
          nowMs += delay;
          continue;
        }
        const copy = 1 + random.below(512 * 1024);
        limit.spend(copy);
        bytes += copy;
      }
      const rate = bytes / (nowMs / 1000);
      expect(rate).toBeGreaterThan(speed * 0.9);
      expect(rate).toBeLessThan(speed * 1.1);
    }
  });

  it("lets everything pass at speed 0, and applies a new speed at once", () => {
    const limit = new RateLimit({ now: () => 0 }, 0);
    limit.spend(1e12);
    expect(limit.delayMs()).toBe(0);
    expect(limit.sliceBytes).toBe(Number.POSITIVE_INFINITY);
    limit.setSpeed(1000);
    expect(limit.delayMs()).toBe(0);
    limit.spend(1000);
    expect(limit.delayMs()).toBe(1000);
    const { changes } = limit;
    limit.setSpeed(0);
    expect([limit.delayMs(), limit.changes]).toEqual([0, changes + 1]);
  });

  it("does not save up what was not used in slices that are over", () => {
    let nowMs = 0;
    const limit = new RateLimit({ now: () => nowMs }, 1000);
    nowMs = 10_000;
    expect(limit.delayMs()).toBe(0);
    limit.spend(200);
    expect(limit.delayMs()).toBe(200);
  });
});
