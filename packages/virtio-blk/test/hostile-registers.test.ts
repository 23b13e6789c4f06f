/** Registers of queues as a driver would write them that means harm: queues that there are not, sizes of all kinds. */
import { describe, expect, test } from "vitest";
import * as mmio from "../src/registers.ts";
import { FORMS, HostileRig, MiB } from "./hostile-rig.ts";

describe("registers for queues", () => {
  const INDICES = [2, 3, 255, 1000, 65_535, 65_536, 2 ** 31, 2 ** 32 - 1];
  const REGISTERS = [0x38, 0x44, 0x50, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4];

  test.each(INDICES.flatMap((index) => REGISTERS.map((register) => [index, register] as const)))(
    "queue %i, which there is not, in register %i",
    (index, register) => {
      const rig = new HostileRig(false);
      const { registers } = rig.guest;
      registers.write(mmio.VIRTIO_MMIO_QUEUE_SEL, index);
      for (const value of [0, 1, index, 0xffff_ffff]) registers.write(register, value);
      expect(registers.read(mmio.VIRTIO_MMIO_QUEUE_READY)).toBe(0);
      expect(registers.read(mmio.VIRTIO_MMIO_QUEUE_NUM_MAX)).toBe(0);
      rig.finish();
    },
  );

  const SIZES = [
    0,
    3,
    5,
    6,
    7,
    9,
    12,
    15,
    17,
    100,
    255,
    257,
    512,
    1024,
    32_768,
    32_769,
    65_535,
    65_536,
    2 ** 31,
    2 ** 32 - 1,
  ];

  test.each(FORMS.flatMap(([form, packed]) => SIZES.map((size) => [form, size, packed] as const)))(
    "a %s queue of %i entries",
    (_, size, packed) => {
      const rig = new HostileRig(packed);
      const { registers } = rig.guest;
      registers.write(mmio.VIRTIO_MMIO_QUEUE_SEL, 0);
      registers.write(mmio.VIRTIO_MMIO_QUEUE_READY, 0);
      rig.guest.poll();
      registers.write(mmio.VIRTIO_MMIO_QUEUE_NUM, size);
      registers.write(mmio.VIRTIO_MMIO_QUEUE_DRIVER_LOW, 2 * MiB);
      registers.write(mmio.VIRTIO_MMIO_QUEUE_DEVICE_LOW, 2 * MiB + 65_536);
      registers.write(mmio.VIRTIO_MMIO_QUEUE_READY, 1);
      const valid = size > 0 && size <= 256 && (packed || Number.isInteger(Math.log2(size)));
      expect(registers.read(mmio.VIRTIO_MMIO_QUEUE_READY)).toBe(valid ? 1 : 0);
      rig.finish();
    },
  );
});
