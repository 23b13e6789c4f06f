import { isBlockError } from "@spindle/base";
import { describe, expect, test } from "vitest";
import { GuestMemory, type GuestMemoryHandle } from "../src/guest-memory.ts";

const MiB = 1024 * 1024;

/** [0, 1M) and [1M, 2M) stand side by side in two buffers; [4G + 1M, 4G + 2M) stands alone, in the middle of a third. */
function threeRegions(): { handle: GuestMemoryHandle; buffers: SharedArrayBuffer[] } {
  const buffers = [new SharedArrayBuffer(MiB), new SharedArrayBuffer(MiB), new SharedArrayBuffer(2 * MiB)];
  const [a, b, c] = buffers as [SharedArrayBuffer, SharedArrayBuffer, SharedArrayBuffer];
  return {
    buffers,
    handle: {
      regions: [
        { guestBase: 2 ** 32 + MiB, memory: c, byteOffset: MiB, length: MiB },
        { guestBase: 0, memory: a, byteOffset: 0, length: MiB },
        { guestBase: MiB, memory: b, byteOffset: 0, length: MiB },
      ],
    },
  };
}

describe("translate", () => {
  const { handle, buffers } = threeRegions();
  const memory = new GuestMemory(handle);

  test("gives views of the guest's own memory, not copies", () => {
    const views: Uint8Array[] = [];
    expect(memory.translate(2 ** 32 + MiB + 5, 3, views)).toBe(true);
    views[0]?.fill(9);
    expect([...new Uint8Array(buffers[2] as SharedArrayBuffer, MiB + 4, 5)]).toEqual([0, 9, 9, 9, 0]);
  });

  test("runs on through regions that stand side by side", () => {
    const views: Uint8Array[] = [];
    expect(memory.translate(MiB - 2, 6, views)).toBe(true);
    expect(views.map((view) => view.length)).toEqual([2, 4]);
    expect(views.map((view) => view.buffer)).toEqual([buffers[0], buffers[1]]);
  });

  test.each([
    ["behind the last region", 2 * MiB, 1],
    ["over the end of a region into a hole", 2 * MiB - 1, 2],
    ["in the hole", 3 * MiB, 16],
    ["up to a region", 2 ** 32 + MiB - 1, 2],
    ["at the largest address", Number.MAX_SAFE_INTEGER, 1],
    ["4 GiB long", 0, 2 ** 32 - 1],
  ])("refuses a range %s", (_, address, length) => {
    expect(memory.translate(address, length, [])).toBe(false);
    expect(memory.window(address, length)).toBeUndefined();
    if (length < MiB) expect(memory.copy(address, length, new Uint8Array(length), 0)).toBe(false);
  });

  test("copies across regions", () => {
    new Uint8Array(buffers[0] as SharedArrayBuffer).set([1, 2], MiB - 2);
    new Uint8Array(buffers[1] as SharedArrayBuffer).set([3, 4], 0);
    const target = new Uint8Array(6);
    expect(memory.copy(MiB - 2, 4, target, 1)).toBe(true);
    expect([...target]).toEqual([0, 1, 2, 3, 4, 0]);
  });
});

test("a window reads and writes little-endian numbers at any address", () => {
  const memory = new GuestMemory(GuestMemory.create(4096, 8192));
  const window = memory.window(8193, 16);
  window?.setU64(0, 2 ** 53 - 1);
  expect(window?.u32(0)).toBe(0xffff_ffff);
  expect(window?.u32(4)).toBe(0x1f_ffff);
  window?.setU16(0, 0x1234);
  expect(window?.u8(0)).toBe(0x34);
  const even = memory.window(8192, 16);
  even?.storeU16(2, 0xfedc);
  expect(even?.loadU16(2)).toBe(0xfedc);
  expect(even?.u16(2)).toBe(0xfedc);
});

describe("a handle is refused", () => {
  const memory = new SharedArrayBuffer(MiB);
  const good = { guestBase: 0, memory, byteOffset: 0, length: MiB };
  test.each([
    ["when it is empty", [{ ...good, length: 0 }]],
    ["when it begins inside of a page", [{ ...good, guestBase: 512 }]],
    ["when it reaches out of its buffer", [{ ...good, byteOffset: 4096 }]],
    ["when it reaches beyond 2^53", [{ ...good, guestBase: 2 ** 53 - 4096 }]],
    ["when regions overlap", [good, { ...good, guestBase: MiB - 4096 }]],
  ])("%s", (_, regions) => {
    let error: unknown;
    try {
      new GuestMemory({ regions });
    } catch (thrown) {
      error = thrown;
    }
    expect(isBlockError(error, "EINVAL")).toBe(true);
  });
});
