import { SeededRandom } from "@spindle/base";
import { describe, expect, it } from "vitest";
import { MappingCache, type Place, ZERO_PLACE } from "../src/mapping-cache.ts";

const UNIT = 65_536;

describe("a mapping cache", () => {
  it("finds what was noted, with host offsets up to 2^53, and nothing else", () => {
    const cache = new MappingCache(MappingCache.create(UNIT));
    const reader = new MappingCache(cache.handle);
    const model = new Map<number, Place>();
    const random = new SeededRandom(4);
    for (let round = 0; round < 20_000; round++) {
      const unitIndex = random.below(2 ** 36);
      const place = {
        descriptor: random.below(1000),
        hostOffset: random.below(2 ** 53 - 1),
        writable: random.chance(0.5),
      };
      cache.set(unitIndex, place);
      model.set(unitIndex, place);
    }
    cache.set(5, { descriptor: ZERO_PLACE, hostOffset: 0, writable: false });
    model.set(5, { descriptor: ZERO_PLACE, hostOffset: 0, writable: false });
    const found: Place = { descriptor: 0, hostOffset: 0, writable: false };
    let hits = 0;
    for (const [unitIndex, place] of model) {
      if (!reader.find(unitIndex, found)) continue;
      hits += 1;
      expect(found).toEqual(place);
    }
    expect(hits).toBeGreaterThan(10_000);
    expect(reader.find(5, found)).toBe(true);
    expect(reader.find(6, found)).toBe(false);
  });

  it("forgets the units that a range touches, and only those", () => {
    const cache = new MappingCache(MappingCache.create(UNIT));
    const place: Place = { descriptor: 3, hostOffset: 0, writable: true };
    for (let unitIndex = 0; unitIndex < 10; unitIndex++) cache.set(unitIndex, place);
    cache.invalidate(2 * UNIT + 1, UNIT);
    const known = Array.from({ length: 10 }, (_, unitIndex) => cache.find(unitIndex, { ...place }));
    expect(known).toEqual([true, true, false, false, true, true, true, true, true, true]);
    cache.invalidate(0, Number.MAX_SAFE_INTEGER);
    expect(cache.find(9, { ...place })).toBe(false);
  });
});
