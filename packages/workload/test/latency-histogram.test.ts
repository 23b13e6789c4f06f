import { SeededRandom } from "@spindle/base";
import { expect, it } from "vitest";
import { LatencyHistogram } from "../src/index.ts";

it("gives percentiles within 2 % of the sorted values, from nanoseconds to minutes", () => {
  const random = new SeededRandom(1);
  const histogram = new LatencyHistogram(LatencyHistogram.allocate());
  const values = Array.from({ length: 20_000 }, () => 10 ** ((random.u32() / 2 ** 32) * 9 - 4));
  for (const value of values) histogram.add(value);
  values.sort((a, b) => a - b);
  for (const fraction of [0.01, 0.5, 0.9, 0.99, 0.999]) {
    const exact = values[Math.ceil(values.length * fraction) - 1] as number;
    expect(Math.abs(histogram.percentile(fraction) / exact - 1)).toBeLessThan(0.02);
  }
  expect(histogram.count).toBe(20_000);
});

it("is empty at first and adds up when merged", () => {
  const [left, right] = [0, 1].map(() => new LatencyHistogram(LatencyHistogram.allocate())) as [
    LatencyHistogram,
    LatencyHistogram,
  ];
  expect(left.percentile(0.5)).toBeNaN();
  left.add(1);
  right.add(3);
  left.merge(right);
  expect(left.count).toBe(2);
});
