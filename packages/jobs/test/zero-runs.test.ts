import { SeededRandom } from "@spindle/base";
import { describe, expect, it } from "vitest";
import { isAllZero, zeroRuns } from "../src/zero-runs.ts";

describe("zero detection", () => {
  it("sees one bit anywhere, at any alignment and length", () => {
    const memory = new Uint8Array(80);
    for (let start = 0; start < 16; start++)
      for (let length = 0; length < 40; length++) {
        const bytes = memory.subarray(start, start + length);
        expect(isAllZero(bytes)).toBe(true);
        for (let index = 0; index < length; index++)
          for (const bit of [1, 0x80]) {
            bytes[index] = bit;
            expect(isAllZero(bytes)).toBe(false);
            bytes[index] = 0;
          }
      }
  });

  it("cuts a buffer into runs that cover it, alternate and tell the truth", () => {
    const random = new SeededRandom(5);
    for (let round = 0; round < 200; round++) {
      const unit = 16;
      const bytes = new Uint8Array(1 + random.below(300));
      for (let offset = 0; offset < bytes.length; offset += unit)
        if (random.chance(0.5)) bytes[Math.min(bytes.length - 1, offset + random.below(unit))] = 1;
      let at = 0;
      let last: boolean | undefined;
      for (const run of zeroRuns(bytes, unit)) {
        expect(run.start).toBe(at);
        expect(run.zero).not.toBe(last);
        for (let offset = run.start; offset < run.end; offset += unit)
          expect(bytes.subarray(offset, Math.min(offset + unit, run.end)).every((byte) => byte === 0)).toBe(run.zero);
        at = run.end;
        last = run.zero;
      }
      expect(at).toBe(bytes.length);
    }
    expect(zeroRuns(new Uint8Array(0), 16)).toEqual([]);
  });
});
