import { describe, expect, it } from "vitest";
import {
  alignDown,
  alignUp,
  BlockError,
  ByteView,
  decodeError,
  decodeUtf8,
  encodeError,
  encodeUtf8,
  formatSize,
  isBlockError,
  isPowerOfTwo,
  parseSize,
  SeededRandom,
} from "../src/index.ts";

describe("sizes", () => {
  it.each([
    ["0", 0],
    ["512", 512],
    ["1b", 1],
    ["64k", 65_536],
    ["64K", 65_536],
    ["1.5G", 1.5 * 2 ** 30],
    ["2T", 2 ** 41],
    ["0x10", 16],
    ["0.1k", 102],
    ["9007199254740991", Number.MAX_SAFE_INTEGER],
  ])("reads %s", (text, bytes) => {
    expect(parseSize(text)).toBe(bytes);
  });

  it.each(["", "k", "1x", "-1", "1.5", "1e3", "0x", "1 k", "0x1k"])("refuses '%s' with EINVAL", (text) => {
    expect(() => parseSize(text)).toThrow(expect.objectContaining({ code: "EINVAL" }));
  });

  it.each(["8P", "16E", "9007199254740992", "99999999999999999999"])(
    "refuses %s, above 2^53 - 1, with EFBIG",
    (text) => {
      expect(() => parseSize(text)).toThrow(expect.objectContaining({ code: "EFBIG" }));
    },
  );

  it.each([
    [0, "0 B"],
    [512, "512 B"],
    [1000, "0.977 KiB"],
    [65_536, "64 KiB"],
    [1.5 * 2 ** 30, "1.5 GiB"],
    [196_616, "192 KiB"],
    [2 ** 53 - 1, "8 PiB"],
  ])("writes %d as qemu-img does", (bytes, text) => {
    expect(formatSize(bytes)).toBe(text);
  });
});

describe("alignment", () => {
  it("rounds offsets beyond 2^32 exactly", () => {
    expect(alignDown(2 ** 50 + 513, 512)).toBe(2 ** 50 + 512);
    expect(alignUp(2 ** 50 + 513, 512)).toBe(2 ** 50 + 1024);
    expect(alignUp(2 ** 50, 512)).toBe(2 ** 50);
  });

  it("knows powers of two", () => {
    expect([1, 2, 2 ** 40].every(isPowerOfTwo)).toBe(true);
    expect([0, 3, -4, 1.5, 2 ** 40 + 1].some(isPowerOfTwo)).toBe(false);
  });
});

describe("ByteView", () => {
  it("reads back what it wrote, in either byte order, up to 2^53 - 1", () => {
    const view = new ByteView(new Uint8Array(16));
    for (const value of [0, 1, 2 ** 32, 2 ** 32 - 1, 2 ** 53 - 1]) {
      view.setU64be(0, value);
      view.setU64le(8, value);
      expect(view.u64be(0, "x")).toBe(value);
      expect(view.u64le(8, "x")).toBe(value);
      expect(view.bigU64be(0)).toBe(BigInt(value));
    }
  });

  it("refuses a 64-bit field above 2^53 - 1 by its name", () => {
    const view = new ByteView(new Uint8Array(8));
    view.setBigU64be(0, 2n ** 53n);
    expect(() => view.u64be(0, "L1 table offset")).toThrow("L1 table offset is above 2^53 - 1");
    view.setBigU64le(0, 2n ** 64n - 1n);
    expect(() => view.u64le(0, "size")).toThrow(expect.objectContaining({ code: "EINVAL" }));
  });
});

describe("UTF-8", () => {
  it("agrees with the host's decoder on valid and on random bytes", () => {
    const random = new SeededRandom(7);
    const text = "plain, Grüße, 磁盘, 💾";
    expect(encodeUtf8(text)).toEqual(new TextEncoder().encode(text));
    expect(decodeUtf8(encodeUtf8(text))).toBe(text);
    for (let round = 0; round < 2_000; round++) {
      const bytes = Uint8Array.from({ length: random.below(8) }, () =>
        random.pick([0x41, 0xc3, 0xa9, 0xe2, 0x82, 0xac]),
      );
      const points = [...new TextDecoder().decode(bytes)].filter((c) => c !== "\ufffd").join("");
      expect([...decodeUtf8(bytes)].filter((c) => c !== "\ufffd").join("")).toBe(points);
    }
  });
});

describe("BlockError", () => {
  it("keeps its code and context across a thread boundary", () => {
    const error = new BlockError("ENOSPC", "no space", { node: "top", offset: 512 });
    const copy = decodeError(structuredClone(encodeError(error)));
    expect(isBlockError(copy, "ENOSPC")).toBe(true);
    expect(copy).toMatchObject({ message: "no space", context: { node: "top", offset: 512 } });
  });

  it("makes an EIO of whatever else was thrown", () => {
    expect(encodeError(new TypeError("odd"))).toEqual({ code: "EIO", message: "odd", context: {} });
    expect(isBlockError(new TypeError("odd"))).toBe(false);
  });
});

describe("SeededRandom", () => {
  it("gives the same numbers for the same seed and others for another", () => {
    const take = (seed: number) =>
      Array.from(
        { length: 8 },
        (
          (random) => () =>
            random.u32()
        )(new SeededRandom(seed)),
      );
    expect(take(1)).toEqual(take(1));
    expect(take(1)).not.toEqual(take(2));
  });

  it("stays below its limit and reaches all of a small one", () => {
    const random = new SeededRandom(3);
    const seen = new Set(Array.from({ length: 1_000 }, () => random.below(10)));
    expect([...seen].sort()).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    for (let round = 0; round < 1_000; round++) expect(random.below(2 ** 50)).toBeLessThan(2 ** 50);
  });
});
