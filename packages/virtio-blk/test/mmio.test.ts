/** The registers: virtio 1.2 §2.1 (device status), §3.1 (initialisation), §4.2 (mmio). */
import { SeededRandom } from "@spindle/base";
import { ThreadTable } from "@spindle/shared-memory";
import { describe, expect, test } from "vitest";
import { createVirtioBlk, type VirtioBlkOptions } from "../src/create-device.ts";
import { DeviceState } from "../src/device-state.ts";
import { readCapacity } from "../src/driver/guest-driver.ts";
import { GuestMemory } from "../src/guest-memory.ts";
import { MmioTransport } from "../src/mmio.ts";
import * as mmio from "../src/registers.ts";
import { OneThread } from "./one-thread.ts";

const ACKNOWLEDGE = 1;
const DRIVER = 2;
const DRIVER_OK = 4;
const FEATURES_OK = 8;
const NEEDS_RESET = 64;
const FAILED = 128;

function device(options: Partial<VirtioBlkOptions> = {}): { registers: MmioTransport; state: DeviceState } {
  const memory = GuestMemory.create(1024 * 1024);
  const handle = createVirtioBlk({ memory, threads: ThreadTable.create(), diskLength: 10 * 1024 * 1024, ...options });
  return { registers: new MmioTransport(handle), state: new DeviceState(handle) };
}

function features(registers: MmioTransport, low: number, high: number): void {
  registers.write(mmio.VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
  registers.write(mmio.VIRTIO_MMIO_DRIVER_FEATURES, low);
  registers.write(mmio.VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
  registers.write(mmio.VIRTIO_MMIO_DRIVER_FEATURES, high);
}

function bitsOf(registers: MmioTransport): number[] {
  const [low] = offered(registers);
  return Array.from({ length: 32 }, (_, bit) => bit).filter((bit) => (low >>> bit) & 1);
}

function offered(registers: MmioTransport): [number, number] {
  return [0, 1].map((half) => {
    registers.write(mmio.VIRTIO_MMIO_DEVICE_FEATURES_SEL, half);
    return registers.read(mmio.VIRTIO_MMIO_DEVICE_FEATURES);
  }) as [number, number];
}

test("4.2.2.1: magic, version 2 and the block device's number", () => {
  const { registers } = device();
  expect(registers.read(0)).toBe(0x74726976);
  expect(registers.read(4)).toBe(2);
  expect(registers.read(8)).toBe(2);
});

describe("features", () => {
  const bits = (low: number): number[] =>
    Array.from({ length: 32 }, (_, bit) => bit).filter((bit) => (low >>> bit) & 1);

  test("are those that the documentation lists", () => {
    expect(bits(offered(device().registers)[0])).toEqual([2, 4, 6, 9, 10, 11, 13, 14, 28, 29]);
    expect(bits(offered(device({ queueCount: 4 }).registers)[0])).toEqual([2, 4, 6, 9, 10, 11, 12, 13, 14, 28, 29]);
    expect(bits(offered(device({ readOnly: true }).registers)[0])).toEqual([2, 4, 5, 6, 9, 10, 11, 28, 29]);
    expect(offered(device().registers)[1]).toBe(1);
  });

  test("beyond bit 63 there are none", () => {
    const { registers } = device();
    registers.write(mmio.VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
    expect(registers.read(mmio.VIRTIO_MMIO_DEVICE_FEATURES)).toBe(0);
  });

  test("2.2.2: any subset with VERSION_1 is accepted", () => {
    const [low] = offered(device().registers);
    for (const subset of [0, low, low & ~(1 << 29), 1 << 9]) {
      const { registers } = device();
      registers.write(mmio.VIRTIO_MMIO_STATUS, ACKNOWLEDGE | DRIVER);
      features(registers, subset, 1);
      registers.write(mmio.VIRTIO_MMIO_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
      expect(registers.read(mmio.VIRTIO_MMIO_STATUS)).toBe(ACKNOWLEDGE | DRIVER | FEATURES_OK);
    }
  });

  test.each([
    ["without VERSION_1", 0, 0],
    ["with a bit that was not offered", 1 << 7, 1],
    ["with a high bit that was not offered", 0, 1 | 4],
    ["with every bit", 0xffff_ffff, 0xffff_ffff],
  ])("2.2.2: FEATURES_OK does not stay set %s", (_, low, high) => {
    const { registers } = device();
    registers.write(mmio.VIRTIO_MMIO_STATUS, ACKNOWLEDGE | DRIVER);
    features(registers, low, high);
    registers.write(mmio.VIRTIO_MMIO_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    expect(registers.read(mmio.VIRTIO_MMIO_STATUS)).toBe(ACKNOWLEDGE | DRIVER);
    // The driver may try again with less.
    features(registers, 0, 1);
    registers.write(mmio.VIRTIO_MMIO_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    expect(registers.read(mmio.VIRTIO_MMIO_STATUS)).toBe(ACKNOWLEDGE | DRIVER | FEATURES_OK);
  });

  test("are fixed by FEATURES_OK", () => {
    const { registers, state } = device();
    features(registers, 1 << 9, 1);
    registers.write(mmio.VIRTIO_MMIO_STATUS, FEATURES_OK);
    features(registers, 0xffff_ffff, 0xffff_ffff);
    expect(state.driverFeatures).toEqual({ low: 1 << 9, high: 1 });
  });
});

test("2.1: the device status follows the model on 100,000 random writes", () => {
  const random = new SeededRandom(5);
  const { registers, state } = device();
  const [offeredLow] = offered(registers);
  let model = { status: 0, low: 0, high: 0 };
  for (let step = 0; step < 100_000; step++) {
    if (random.chance(0.3)) {
      const low = random.chance(0.7) ? random.u32() & offeredLow : random.u32();
      const high = random.chance(0.8) ? 1 : random.u32();
      features(registers, low >>> 0, high);
      if ((model.status & FEATURES_OK) === 0) model = { ...model, low: low >>> 0, high };
      continue;
    }
    const written = random.chance(0.1) ? 0 : random.chance(0.5) ? 1 << random.below(8) : random.below(256);
    registers.write(mmio.VIRTIO_MMIO_STATUS, written);
    if (written === 0) model = { status: 0, low: 0, high: 0 };
    else {
      let next = model.status | (written & (ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED));
      const acceptable = (model.low & ~offeredLow) === 0 && model.high === 1;
      if ((model.status & FEATURES_OK) === 0 && !acceptable) next &= ~FEATURES_OK;
      if ((next & FEATURES_OK) === 0) next &= ~DRIVER_OK;
      model.status = next;
    }
    if (registers.read(mmio.VIRTIO_MMIO_STATUS) !== model.status) throw new Error(`step ${step}`);
  }
  expect(state.driverFeatures).toEqual({ low: model.low, high: model.high });
});

describe("queues", () => {
  const setUp = (
    registers: MmioTransport,
    size: number,
    desc = 0,
    driver = 0x4000,
    used = 0x8000,
    high = 0,
  ): number => {
    registers.write(mmio.VIRTIO_MMIO_QUEUE_NUM, size);
    registers.write(mmio.VIRTIO_MMIO_QUEUE_DESC_LOW, desc);
    registers.write(mmio.VIRTIO_MMIO_QUEUE_DESC_HIGH, high);
    registers.write(mmio.VIRTIO_MMIO_QUEUE_DRIVER_LOW, driver);
    registers.write(mmio.VIRTIO_MMIO_QUEUE_DEVICE_LOW, used);
    registers.write(mmio.VIRTIO_MMIO_QUEUE_READY, 1);
    return registers.read(mmio.VIRTIO_MMIO_QUEUE_READY);
  };

  test("have the maximum size, and those that are not there have none", () => {
    const { registers } = device({ queueCount: 2, queueSizeMax: 64 });
    const sizes = [0, 1, 2, 1000, 0xffff_ffff].map((index) => {
      registers.write(mmio.VIRTIO_MMIO_QUEUE_SEL, index);
      return registers.read(mmio.VIRTIO_MMIO_QUEUE_NUM_MAX);
    });
    expect(sizes).toEqual([64, 64, 0, 0, 0]);
  });

  test("become ready with a valid layout and keep it until they are stopped", () => {
    const { registers, state } = device();
    expect(setUp(registers, 64)).toBe(1);
    registers.write(mmio.VIRTIO_MMIO_QUEUE_NUM, 8);
    registers.write(mmio.VIRTIO_MMIO_QUEUE_DESC_LOW, 4096);
    expect(state.queues[0]?.layout).toMatchObject({ size: 64, descriptorAddress: 0 });
    registers.write(mmio.VIRTIO_MMIO_QUEUE_READY, 0);
    expect(registers.read(mmio.VIRTIO_MMIO_QUEUE_READY)).toBe(0);
    expect(setUp(registers, 8, 4096, 0, 8192)).toBe(1);
  });

  test.each([
    ["size 0", [0]],
    ["size 3", [3]],
    ["a size above the maximum", [512]],
    ["a size of 2^31", [2 ** 31]],
    ["unaligned descriptors", [64, 8]],
    ["rings outside of memory", [64, 0, 0x4000, 0x4000_0000]],
    ["an address of 2^64", [64, 0, 0x4000, 0x8000, 0xffff_ffff]],
    ["rings that overlap", [64, 0, 0x100]],
  ] as [string, [number]][])("do not become ready with %s", (_, layout) => {
    expect(setUp(device().registers, ...layout)).toBe(0);
  });

  test("that are not there are ignored on every register", () => {
    const { registers } = device();
    for (const index of [1, 2, 1000, 0xffff_ffff]) {
      registers.write(mmio.VIRTIO_MMIO_QUEUE_SEL, index);
      expect(setUp(registers, 64)).toBe(0);
      registers.write(mmio.VIRTIO_MMIO_QUEUE_NOTIFY, index);
      registers.write(mmio.VIRTIO_MMIO_QUEUE_READY, 0);
    }
  });

  test("4.2.2.1: a reset clears the ready bits, the interrupt status and what was set up", () => {
    const { registers, state } = device({ queueCount: 2 });
    for (const index of [0, 1]) {
      registers.write(mmio.VIRTIO_MMIO_QUEUE_SEL, index);
      expect(setUp(registers, 64)).toBe(1);
    }
    for (const queue of state.queues) state.interrupt(queue);
    registers.write(mmio.VIRTIO_MMIO_STATUS, 0);
    expect(registers.read(mmio.VIRTIO_MMIO_STATUS)).toBe(0);
    expect(registers.read(mmio.VIRTIO_MMIO_INTERRUPT_STATUS)).toBe(0);
    for (const index of [0, 1]) {
      registers.write(mmio.VIRTIO_MMIO_QUEUE_SEL, index);
      expect(registers.read(mmio.VIRTIO_MMIO_QUEUE_READY)).toBe(0);
      expect(state.queues[index]?.layout.size).toBe(0);
    }
  });
});

test("4.2.2.1: interrupt bits stay set until they are acknowledged, each for itself", () => {
  const { registers, state } = device();
  state.interrupt(state.queues[0]!);
  state.latch(state.queues[0]!, "a chain has no byte for the status");
  expect(registers.read(mmio.VIRTIO_MMIO_INTERRUPT_STATUS)).toBe(3);
  expect(registers.read(mmio.VIRTIO_MMIO_STATUS)).toBe(NEEDS_RESET);
  registers.write(mmio.VIRTIO_MMIO_INTERRUPT_ACK, 1);
  expect(registers.read(mmio.VIRTIO_MMIO_INTERRUPT_STATUS)).toBe(2);
  registers.write(mmio.VIRTIO_MMIO_INTERRUPT_ACK, 0xffff_ffff);
  expect(registers.read(mmio.VIRTIO_MMIO_INTERRUPT_STATUS)).toBe(0);
});

test("there are no shared memory regions", () => {
  const { registers } = device();
  for (const offset of [0x0b0, 0x0b4, 0x0b8, 0x0bc]) expect(registers.read(offset)).toBe(0xffff_ffff);
});

describe("the configuration space", () => {
  test("tells what the device can do", () => {
    const { registers } = device({ queueCount: 3, queueSizeMax: 128, discardGranularity: 65_536 });
    const u32 = (offset: number): number => registers.read(0x100 + offset);
    expect(readCapacity(registers)).toBe(10 * 1024 * 1024);
    expect(u32(12), "seg_max").toBe(126);
    expect(u32(20), "blk_size").toBe(512);
    expect(registers.read(0x100 + 24, 1), "physical_block_exp").toBe(3);
    expect(registers.read(0x100 + 34, 2), "num_queues").toBe(3);
    expect(u32(36), "max_discard_sectors").toBe(4_194_303);
    expect(u32(40), "max_discard_seg").toBe(256);
    expect(u32(44), "discard_sector_alignment").toBe(128);
    expect(u32(48), "max_write_zeroes_sectors").toBe(4_194_303);
    expect(u32(52), "max_write_zeroes_seg").toBe(256);
    expect(registers.read(0x100 + 56, 1), "write_zeroes_may_unmap").toBe(1);
    expect([33, 57, 58, 59].map((offset) => registers.read(0x100 + offset, 1))).toEqual([0, 0, 0, 0]);
  });

  test("has the limits and the topology that it was given", () => {
    const { registers } = device({
      logicalBlockSize: 4096,
      physicalBlockSize: 16_384,
      minIoSize: 65_536,
      optIoSize: 1024 * 1024,
      segmentBytesMax: 2 * 1024 * 1024,
      diskLength: 100 * 2 ** 30,
    });
    const u32 = (offset: number): number => registers.read(0x100 + offset);
    expect(bitsOf(registers)).toContain(1);
    expect(u32(8), "size_max").toBe(2 * 1024 * 1024);
    expect(registers.read(0x100 + 16, 2), "cylinders").toBe(16_383);
    expect(registers.read(0x100 + 18, 1), "heads").toBe(16);
    expect(registers.read(0x100 + 19, 1), "sectors").toBe(63);
    expect(registers.read(0x100 + 24, 1), "physical_block_exp").toBe(2);
    expect(registers.read(0x100 + 25, 1), "alignment_offset").toBe(0);
    expect(registers.read(0x100 + 26, 2), "min_io_size").toBe(16);
    expect(u32(28), "opt_io_size").toBe(256);
    expect(bitsOf(device().registers), "size_max only where there is one").not.toContain(1);
  });

  test.each([
    ["a minimum that is no number of blocks", { minIoSize: 1000 }],
    ["a minimum of more than 65,535 blocks", { minIoSize: 512 * 65_536 }],
    ["a buffer limit that is no number of blocks", { segmentBytesMax: 100 }],
    ["a policy that there is not", { werror: "panic" as "stop" }],
    ["the policy enospc for reads", { rerror: "enospc" }],
  ] as const)("does not take %s", (_, options) => {
    expect(() => device(options)).toThrow("out of range");
  });

  test("and all other registers can be read and written at any offset and width", () => {
    const { registers, state } = device();
    const whole = state.readConfiguration(0, 64);
    for (let offset = 0; offset <= 0x100 + 300; offset++) {
      for (const width of [1, 2, 4, 8, 3, 0, -1] as (1 | 2 | 4)[]) {
        const value = registers.read(offset, width);
        expect(Number.isSafeInteger(value)).toBe(true);
        const at = offset - 0x100;
        if (at >= 0 && width === 1) expect(value).toBe(whole[at] ?? 0);
        if (at >= 0 && width === 2) expect(value).toBe((whole[at] ?? 0) + (whole[at + 1] ?? 0) * 256);
        if (offset >= 0x100) registers.write(offset, 0xffff_ffff, width);
      }
    }
    for (const offset of [-4, 1.5, Number.NaN, 2 ** 53, 2 ** 40]) expect(registers.read(offset)).toBe(0);
    expect(state.readConfiguration(0, 64)).toEqual(whole);
    for (let length = 0; length < 300; length++) expect(state.readConfiguration(length, length).length).toBe(length);
  });

  test("changes with the disk's length: a new generation and an interrupt", () => {
    const guest = new OneThread();
    const state = new DeviceState(guest.device);
    const generation = guest.registers.read(mmio.VIRTIO_MMIO_CONFIG_GENERATION);
    state.setDiskLength(5 * 2 ** 40);
    expect(readCapacity(guest.registers)).toBe(5 * 2 ** 40);
    expect(guest.registers.read(mmio.VIRTIO_MMIO_CONFIG_GENERATION)).not.toBe(generation);
    expect(guest.registers.read(mmio.VIRTIO_MMIO_INTERRUPT_STATUS) & 2).toBe(2);
  });

  test("is never seen half changed by a driver that checks the generation, at any interleaving", () => {
    const lengths = [0x1_0000_0000 * 512 - 512, 0x1_0000_0000 * 512, 7 * 512];
    for (let first = 0; first <= 4; first++) {
      for (let second = first; second <= 4; second++) {
        const { registers, state } = device({ diskLength: lengths[0] as number });
        let step = 0;
        let reads = 0;
        const spied = {
          read: (offset: number): number => {
            if (step === first) state.setDiskLength(lengths[1] as number);
            if (step === second) state.setDiskLength(lengths[2] as number);
            step += 1;
            reads += 1;
            return registers.read(offset);
          },
          write: () => {},
        };
        expect(lengths).toContain(readCapacity(spied));
        expect(reads).toBeLessThan(20);
      }
    }
  });
});

test("random register accesses never throw", () => {
  const random = new SeededRandom(77);
  const guest = new OneThread({ queueCount: 2 });
  for (let step = 0; step < 50_000; step++) {
    const offset = random.chance(0.9) ? random.below(0x140) & ~3 : random.u32();
    const width = random.pick([1, 2, 4, 4, 4, 4] as const);
    if (random.chance(0.5)) guest.registers.read(offset, width);
    else guest.registers.write(offset, random.chance(0.6) ? random.below(16) : random.u32(), width);
    if (random.chance(0.1)) guest.poll();
  }
  guest.start();
  expect(guest.runner.run(guest.queue(1).getId()).length).toBe(20);
});
