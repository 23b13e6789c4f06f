import { describe, expect, it } from "vitest";
import { SharedLength } from "../src/shared-length.ts";

describe("a shared length", () => {
  it("is the same for all who share it, up to 2^53 - 1, however often it changes", () => {
    const owner = new SharedLength(SharedLength.create(2 ** 53 - 1));
    const reader = new SharedLength(owner.handle);
    expect(reader.value).toBe(2 ** 53 - 1);
    for (const length of [0, 511, 2 ** 32 - 1, 2 ** 32, 2 ** 40 + 3, 2 ** 53 - 512]) {
      owner.value = length;
      expect([owner.value, reader.value, new SharedLength(owner.handle).value]).toEqual([length, length, length]);
      owner.value = length;
      expect(reader.value).toBe(length);
    }
  });
});
