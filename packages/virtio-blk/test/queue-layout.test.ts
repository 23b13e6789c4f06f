import { describe, expect, test } from "vitest";
import { GuestMemory } from "../src/guest-memory.ts";
import { openPackedLayout, openQueueLayout, type QueueLayout } from "../src/queue-layout.ts";

const BASE = 0x10000;
const LENGTH = 4 * 1024 * 1024;
const memory = new GuestMemory(GuestMemory.create(LENGTH, BASE));
const good: QueueLayout = {
  size: 8,
  descriptorAddress: BASE,
  driverAddress: BASE + 128,
  deviceAddress: BASE + 128 + 24,
};

test.each([1, 2, 4, 256, 32_768])("a queue of %i entries is accepted", (size) => {
  const driverAddress = BASE + 16 * size;
  const deviceAddress = Math.ceil((driverAddress + 6 + 2 * size) / 4) * 4;
  expect(openQueueLayout(memory, { size, descriptorAddress: BASE, driverAddress, deviceAddress })).toBeDefined();
});

describe("a layout is refused", () => {
  test.each<[string, Partial<QueueLayout>]>([
    ["with size 0", { size: 0 }],
    ["with a size that is no power of two", { size: 3 }],
    ["with a size above 32768", { size: 65_536 }],
    ["with a size that overflows", { size: 0xffff_ffff }],
    ["with unaligned descriptors", { descriptorAddress: BASE + 8 }],
    ["with an unaligned available ring", { driverAddress: BASE + 129 }],
    ["with an unaligned used ring", { deviceAddress: BASE + 154 }],
    ["with descriptors before the memory", { descriptorAddress: 0 }],
    ["with a used ring over the memory's end", { deviceAddress: BASE + LENGTH - 8 }],
    ["with an available ring beyond 2^53", { driverAddress: Number.MAX_SAFE_INTEGER - 1 }],
    ["when two parts are the same", { deviceAddress: BASE }],
    ["when two parts overlap by one entry", { deviceAddress: BASE + 128 + 20 }],
  ])("%s", (_, change) => {
    expect(openQueueLayout(memory, { ...good, ...change })).toBeUndefined();
  });

  test("but not this one", () => {
    expect(openQueueLayout(memory, good)).toBeDefined();
  });
});

describe("a packed layout is refused", () => {
  const packed: QueueLayout = {
    size: 7,
    descriptorAddress: BASE,
    driverAddress: BASE + 112,
    deviceAddress: BASE + 116,
  };

  test.each<[string, Partial<QueueLayout>]>([
    ["with size 0", { size: 0 }],
    ["with a size above 32768", { size: 32_769 }],
    ["with half a size", { size: 1.5 }],
    ["with unaligned descriptors", { descriptorAddress: BASE + 8 }],
    ["with an unaligned driver's structure", { driverAddress: BASE + 114 }],
    ["with an unaligned device's structure", { deviceAddress: BASE + 118 }],
    ["with a ring over the memory's end", { descriptorAddress: BASE + LENGTH - 96 }],
    ["with a structure outside of memory", { deviceAddress: BASE + LENGTH }],
    ["when the structures are the same", { deviceAddress: BASE + 112 }],
    ["when the ring runs into a structure", { size: 8 }],
  ])("%s", (_, change) => {
    expect(openPackedLayout(memory, { ...packed, ...change })).toBeUndefined();
  });

  test("but not this one, nor the largest", () => {
    expect(openPackedLayout(memory, packed)).toBeDefined();
    const end = BASE + 16 * 32_768;
    const largest = { size: 32_768, descriptorAddress: BASE, driverAddress: end, deviceAddress: end + 4 };
    expect(openPackedLayout(memory, largest)).toBeDefined();
  });
});
