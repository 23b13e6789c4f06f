import { describe, expect, it } from "vitest";
import { ModelDisk } from "../src/index.ts";

describe("model disk", () => {
  it("names the first byte that is wrong", () => {
    const model = new ModelDisk(10);
    model.write(3, Uint8Array.of(1, 2, 3));
    expect(model.mismatch(2, Uint8Array.of(0, 1, 2, 3, 0))).toBeUndefined();
    expect(model.mismatch(2, Uint8Array.of(0, 1, 9, 3, 0))).toBe("byte 4 is 9, and should be 2");
    expect(() => model.check(8, new Uint8Array(3))).toThrow("read 3 bytes at 8 of 10");
  });

  it("takes zeros or the bytes from before where something was discarded, until it is written again", () => {
    const model = new ModelDisk(Uint8Array.of(5, 6, 7));
    model.discard(0, 2);
    expect(model.mismatch(0, Uint8Array.of(0, 6, 7))).toBeUndefined();
    expect(model.mismatch(0, Uint8Array.of(5, 0, 7))).toBeUndefined();
    expect(model.mismatch(0, Uint8Array.of(5, 6, 0))).toBe("byte 2 is 0, and should be 7");
    model.write(0, Uint8Array.of(8));
    expect(model.mismatch(0, Uint8Array.of(0, 6, 7))).toBe("byte 0 is 0, and should be 8");
    model.writeZeroes(1, 1);
    expect(model.mismatch(0, Uint8Array.of(8, 6, 7))).toBe("byte 1 is 6, and should be 0");
  });

  it("adds zeros when it gets longer, whatever was cut off before", () => {
    const model = new ModelDisk(Uint8Array.of(1, 2, 3));
    model.truncate(1);
    model.truncate(3);
    expect([...model.read(0, 3)]).toEqual([1, 0, 0]);
  });
});
