/** Every transport brings the same device: virtio 1.2 §4.1 (PCI), §4.2 (mmio), §4.2.4 (legacy mmio). */
import { type Co, join, SeededRandom } from "@spindle/base";
import { describe, expect, test } from "vitest";
import type { VirtioBlkHandle } from "../src/create-device.ts";
import { DeviceState } from "../src/device-state.ts";
import { readCapacity, resetDevice } from "../src/driver/guest-driver.ts";
import { type PciFunction, PciRegisters } from "../src/driver/pci-registers.ts";
import { VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC } from "../src/features.ts";
import { LegacyMmioTransport } from "../src/mmio-legacy.ts";
import { PciTransport } from "../src/pci.ts";
import * as layout from "../src/pci-layout.ts";
import * as mmio from "../src/registers.ts";
import { OneThread, type OneThreadOptions, pattern } from "./one-thread.ts";

const MSIX_VECTORS = 3;
/** An MSI-X capability of an emulator whose table stands in its BAR 1. */
const MSIX = Uint8Array.from([0x11, 0, MSIX_VECTORS - 1, 0, 1, 0, 0, 0, 1, 8, 0, 0]);

/** A PCI function with what its interrupts did. */
class TestPci implements PciFunction {
  readonly transport: PciTransport;
  line = false;
  readonly messages: number[] = [];

  constructor(device: VirtioBlkHandle, bar: "io" | "memory", msix = false) {
    const send = (vector: number): void => {
      this.messages.push(vector);
    };
    this.transport = new PciTransport(device, {
      bar,
      interrupts: {
        setLine: (raised) => {
          this.line = raised;
        },
        ...(msix ? { msix: { capability: MSIX, vectorCount: MSIX_VECTORS, send } } : {}),
      },
    });
  }
  readConfig(offset: number, width: 1 | 2 | 4): number {
    return this.transport.readConfig(offset, width);
  }
  writeConfig(offset: number, value: number, width: 1 | 2 | 4): void {
    this.transport.writeConfig(offset, value, width);
  }
  readBar(offset: number, width: 1 | 2 | 4): number {
    return this.transport.readBar(offset, width);
  }
  writeBar(offset: number, value: number, width: 1 | 2 | 4): void {
    this.transport.writeBar(offset, value, width);
  }
}

/** Reaches the BAR through the configuration space, as firmware does that has not mapped it yet. */
class WindowPci extends TestPci {
  #window(offset: number, width: number): number {
    let at = this.readConfig(layout.PCI_CAPABILITIES, 1);
    while (this.readConfig(at + 3, 1) !== layout.VIRTIO_PCI_CAP_PCI_CFG) at = this.readConfig(at + 1, 1);
    this.writeConfig(at + 4, 0, 1);
    this.writeConfig(at + 8, offset, 4);
    this.writeConfig(at + 12, width, 4);
    return at + 16;
  }
  override readBar(offset: number, width: 1 | 2 | 4): number {
    return this.readConfig(this.#window(offset, width), width);
  }
  override writeBar(offset: number, value: number, width: 1 | 2 | 4): void {
    this.writeConfig(this.#window(offset, width), value, width);
  }
}

const TRANSPORTS: readonly (readonly [string, OneThreadOptions])[] = [
  ["mmio", {}],
  ["legacy mmio", { legacy: true, transport: (device) => new LegacyMmioTransport(device) }],
  ["PCI with ports", { transport: (device) => new PciRegisters(new TestPci(device, "io")) }],
  ["PCI with memory and MSI-X", { transport: (device) => new PciRegisters(new TestPci(device, "memory", true)) }],
  ["PCI through its window", { transport: (device) => new PciRegisters(new WindowPci(device, "memory")) }],
  [
    "PCI and packed rings",
    { device: { packed: true }, transport: (device) => new PciRegisters(new TestPci(device, "io")) },
  ],
];

describe.each(TRANSPORTS)("over %s", (name, options) => {
  const legacy = options.legacy === true;

  test.each([0, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC])(
    "a guest without features %i reads what it wrote, on all queues",
    (refused) => {
      const guest = new OneThread({ ...options, queueCount: 3, queueSize: 16, refused });
      const user = function* (queue: number): Co<void> {
        const driver = guest.queue(queue);
        const back = new Uint8Array(4096);
        for (let round = 0; round < 20; round++) {
          const bytes = pattern(4096, round + queue);
          yield* driver.write(queue * 65_536, bytes);
          yield* driver.read(queue * 65_536, back);
          if (Buffer.compare(back, bytes) !== 0) throw new Error(`queue ${queue}, round ${round}`);
          yield* driver.flush();
        }
        yield* driver.writeZeroes(queue * 65_536, 4096);
        yield* driver.discard(queue * 65_536, 4096);
        expect(String.fromCharCode(...(yield* driver.getId()).subarray(0, 9))).toBe("spindle-0");
      };
      guest.runner.run(join([0, 1, 2].map(user)));
      expect(guest.served).toBeUndefined();
    },
  );

  test("the configuration space is read, its write cache switched, its change of capacity seen", () => {
    const guest = new OneThread(options);
    const state = new DeviceState(guest.device);
    expect(readCapacity(guest.registers)).toBe(guest.disk.length);
    expect(guest.registers.read(0x100 + 34, 2)).toBe(1);
    guest.registers.write(0x100 + 32, 0, 1);
    guest.runner.run(guest.queue().write(0, new Uint8Array(512)));
    expect(guest.disk.log.at(-1)).toBe("write 0 512 fua");
    state.setDiskLength(2 * guest.disk.length);
    expect(readCapacity(guest.registers)).toBe(2 * guest.disk.length);
    expect(guest.registers.read(mmio.VIRTIO_MMIO_INTERRUPT_STATUS) & 2).toBe(2);
  });

  test("a reset with requests in flight is over when they are, and the device can be set up with other features", () => {
    const guest = new OneThread({ ...options, queueSize: 32 });
    for (const refused of [0, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, 0]) {
      guest.start(refused);
      const queue = guest.queue();
      guest.disk.open = false;
      for (let count = 0; count < 8; count++) queue.submit({ type: 0, length: 512 });
      queue.commit();
      guest.poll();
      guest.registers.write(mmio.VIRTIO_MMIO_STATUS, 0);
      expect(guest.registers.read(mmio.VIRTIO_MMIO_STATUS)).not.toBe(0);
      guest.disk.open = true;
      guest.runner.run(resetDevice(guest.registers));
    }
  });

  test("a broken queue asks for a reset", () => {
    const guest = new OneThread(options);
    const state = new DeviceState(guest.device);
    state.latch(state.queues[0]!, "a chain has no byte for the status");
    expect(guest.registers.read(mmio.VIRTIO_MMIO_STATUS) & 64).toBe(64);
    guest.start();
    expect(guest.registers.read(mmio.VIRTIO_MMIO_STATUS)).toBe(legacy ? 7 : 15);
    expect(guest.runner.run(guest.queue().getId()).length).toBe(20);
  });

  test("random accesses of the registers never throw, and leave a device that works after a reset", () => {
    const random = new SeededRandom(21);
    const guest = new OneThread({ ...options, queueCount: 2 });
    for (let step = 0; step < 30_000; step++) {
      const offset = random.chance(0.9) ? random.below(0x140) & ~3 : random.u32();
      const width = random.pick([1, 2, 4, 4, 4, 4] as const);
      if (random.chance(0.5)) guest.registers.read(offset, width);
      else guest.registers.write(offset, random.chance(0.6) ? random.below(16) : random.u32(), width);
      if (random.chance(0.1)) guest.poll();
    }
    guest.start();
    expect(guest.runner.run(guest.queue(1).getId()).length, name).toBe(20);
  });
});

describe("legacy mmio", () => {
  const begin = (): OneThread =>
    new OneThread({ legacy: true, transport: (device) => new LegacyMmioTransport(device) });

  test("4.2.4: has version 1, no feature above bit 31, no FEATURES_OK, and ANY_LAYOUT", () => {
    const { registers, runner } = begin();
    expect(registers.read(mmio.VIRTIO_MMIO_VERSION)).toBe(1);
    registers.write(mmio.VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
    expect(registers.read(mmio.VIRTIO_MMIO_DEVICE_FEATURES)).toBe(0);
    registers.write(mmio.VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
    expect((registers.read(mmio.VIRTIO_MMIO_DEVICE_FEATURES) >>> 27) & 1).toBe(1);
    expect(registers.read(mmio.VIRTIO_MMIO_STATUS)).toBe(7);
    runner.run(resetDevice(registers));
    registers.write(mmio.VIRTIO_MMIO_STATUS, 1 | 2 | 8);
    expect(registers.read(mmio.VIRTIO_MMIO_STATUS)).toBe(3);
  });

  test("4.2.4: QueuePFN reads as written while the queue runs, and as 0 when its rings are not valid or it was stopped", () => {
    const { registers, plans, runner } = begin();
    const page = plans[0]!.layout.descriptorAddress / 4096;
    registers.write(mmio.VIRTIO_MMIO_QUEUE_SEL, 0);
    expect(registers.read(mmio.VIRTIO_MMIO_QUEUE_NUM_MAX), "in use").toBe(0);
    expect(new DeviceState(begin().device).queues[0]?.enabled).toBe(true);
    const set = (size: number, alignment: number, pageSize: number, pfn: number): number => {
      runner.run(resetDevice(registers));
      registers.write(mmio.VIRTIO_MMIO_QUEUE_NUM, size);
      registers.write(mmio.VIRTIO_MMIO_QUEUE_ALIGN, alignment);
      registers.write(mmio.VIRTIO_MMIO_GUEST_PAGE_SIZE, pageSize);
      registers.write(mmio.VIRTIO_MMIO_QUEUE_PFN, pfn);
      return registers.read(mmio.VIRTIO_MMIO_QUEUE_PFN);
    };
    expect(set(16, 4096, 4096, page + 1)).toBe(page + 1);
    for (const [size, alignment, pageSize, pfn] of [
      [0, 4096, 4096, 1],
      [3, 4096, 4096, 1],
      [512, 4096, 4096, 1],
      [2 ** 32 - 1, 4096, 4096, 1],
      [16, 0, 4096, 1],
      [16, 3, 4096, 1],
      [16, 2 ** 31, 4096, 1],
      [16, 4096, 0, 1],
      [16, 4096, 4096, 2 ** 32 - 1],
      [16, 4096, 2 ** 31, 2 ** 32 - 1],
    ] as const)
      expect(set(size, alignment, pageSize, pfn), `${size} ${alignment} ${pageSize} ${pfn}`).toBe(0);
    expect(set(16, 4096, 4096, page + 1)).toBe(page + 1);
    registers.write(mmio.VIRTIO_MMIO_QUEUE_PFN, 0);
    runner.poll();
    expect(registers.read(mmio.VIRTIO_MMIO_QUEUE_PFN)).toBe(0);
  });

  test("features that were not offered are not taken", () => {
    const guest = begin();
    guest.runner.run(resetDevice(guest.registers));
    guest.registers.write(mmio.VIRTIO_MMIO_DRIVER_FEATURES, 0xffff_ffff);
    const { offered } = guest.device;
    expect(new DeviceState(guest.device).driverFeatures.low).toBe((offered.low | (1 << 27)) >>> 0);
  });
});

describe("PCI", () => {
  function begin(msix = false, queueCount = 2): { guest: OneThread; pci: TestPci; state: DeviceState } {
    let pci: TestPci | undefined;
    const guest = new OneThread({
      queueCount,
      transport: (device) => {
        pci = new TestPci(device, "memory", msix);
        return new PciRegisters(pci);
      },
    });
    const state = new DeviceState(guest.device);
    state.configThread = guest.thread.index;
    return { guest, pci: pci as TestPci, state };
  }
  const common = (pci: TestPci, offset: number, width: 1 | 2 | 4, value: number): number => {
    pci.writeBar(offset, value, width);
    return pci.readBar(offset, width);
  };

  test("4.1.2: the identity is a modern block device's, in mass storage", () => {
    const { pci } = begin();
    expect(pci.readConfig(0, 2)).toBe(0x1af4);
    expect(pci.readConfig(2, 2)).toBe(0x1042);
    expect(pci.readConfig(8, 1), "revision").toBe(1);
    expect(pci.readConfig(9, 1) + pci.readConfig(10, 2) * 256, "class").toBe(0x01_0000);
    expect(pci.readConfig(6, 2) & 0x10, "has capabilities").toBe(0x10);
    expect(pci.transport.configSpace.length).toBe(256);
  });

  test("4.1.4: each structure is in the capabilities once, inside of the BAR, and MSI-X where the emulator has it", () => {
    for (const msix of [false, true]) {
      const { pci } = begin(msix);
      const found: number[] = [];
      for (let at = pci.readConfig(0x34, 1); at !== 0; at = pci.readConfig(at + 1, 1)) {
        expect(at % 4).toBe(0);
        if (pci.readConfig(at, 1) === 0x11) {
          expect(pci.readConfig(at + 4, 4)).toBe(1);
          found.push(0x11);
          continue;
        }
        const type = pci.readConfig(at + 3, 1);
        found.push(type);
        expect(pci.readConfig(at + 2, 1)).toBe(type === 2 || type === 5 ? 20 : 16);
        expect(pci.readConfig(at + 4, 1), "bar").toBe(0);
        expect(pci.readConfig(at + 8, 4) + pci.readConfig(at + 12, 4)).toBeLessThanOrEqual(256);
        if (type === 2) expect(pci.readConfig(at + 16, 4), "notify_off_multiplier").toBe(0);
      }
      expect(found).toEqual(msix ? [1, 2, 3, 4, 5, 0x11] : [1, 2, 3, 4, 5]);
    }
  });

  test("the BAR tells its size and its kind, and where it is while it is enabled", () => {
    for (const [bar, kind, enable] of [
      ["io", 1, 1],
      ["memory", 0, 2],
    ] as const) {
      const pci = new TestPci(new OneThread().device, bar);
      pci.writeConfig(0x10, 0xffff_ffff, 4);
      expect(pci.readConfig(0x10, 4)).toBe(0xffff_ff00 + kind);
      pci.writeConfig(0x10, 0x6000, 4);
      expect(pci.transport.barAddress).toBeUndefined();
      pci.writeConfig(4, enable, 2);
      expect(pci.transport.barAddress).toBe(0x6000);
      pci.writeConfig(0x14, 0xffff_ffff, 4);
      expect(pci.readConfig(0x14, 4), "there is no second BAR").toBe(0);
      for (const offset of [0, 2, 6, 8, 0x2c, 0x34, 0x40, 0x44, 0x48]) {
        const before = pci.readConfig(offset, 4);
        if (offset !== 2 && offset !== 6) pci.writeConfig(offset, ~before >>> 0, 4);
        expect(pci.readConfig(offset, 4), `register ${offset} is read-only`).toBe(before);
      }
    }
  });

  test("4.1.4.3: the common structure has its fields, in their widths alone", () => {
    const { guest, pci } = begin();
    expect(pci.readBar(0x12, 2), "num_queues").toBe(2);
    expect(common(pci, 0x16, 2, 1), "queue_select").toBe(1);
    expect(pci.readBar(0x18, 2), "queue_size").toBe(16);
    expect(pci.readBar(0x1c, 2), "queue_enable").toBe(1);
    expect(pci.readBar(0x1e, 2), "queue_notify_off").toBe(0);
    expect(common(pci, 0x16, 2, 2), "queue_select").toBe(2);
    for (const offset of [0x18, 0x1a, 0x1c, 0x1e]) expect(pci.readBar(offset, 2), "no such queue").toBe(0);
    expect(pci.readBar(0x20, 4)).toBe(0);
    for (const [offset, width] of [
      [0x12, 1],
      [0x12, 4],
      [0x14, 4],
      [0x00, 2],
    ] as const)
      expect(pci.readBar(offset, width)).toBe(0);
    guest.runner.run(resetDevice(guest.registers));
    expect(pci.readBar(0x14, 1)).toBe(0);
    common(pci, 0x16, 2, 0);
    expect(pci.readBar(0x18, 2), "the largest size after a reset").toBe(256);
    expect(common(pci, 0x18, 2, 64)).toBe(64);
    expect(common(pci, 0x20, 4, 0x1234_5670)).toBe(0x1234_5670);
    expect(common(pci, 0x24, 4, 3)).toBe(3);
    expect(common(pci, 0x1c, 2, 1), "rings outside of memory").toBe(0);
    expect(common(pci, 0x08, 4, 1)).toBe(1);
    expect(common(pci, 0x0c, 4, 1), "driver_feature").toBe(1);
    expect(common(pci, 0x00, 4, 2)).toBe(2);
    expect(pci.readBar(0x04, 4), "no features beyond bit 63").toBe(0);
  });

  test("4.1.4.5: ISR is cleared and INTx lowered when it is read", () => {
    const { guest, pci, state } = begin();
    guest.runner.run(guest.queue().flush());
    pci.readBar(0x44, 1);
    state.setDiskLength(512);
    pci.transport.deliver();
    expect(pci.line).toBe(true);
    expect(pci.readBar(0x44, 1)).toBe(2);
    expect(pci.line).toBe(false);
    expect(pci.readBar(0x44, 1)).toBe(0);
    state.interrupt(state.queues[0]!);
    pci.transport.deliver();
    expect(pci.line).toBe(true);
    // The driver may switch INTx off.
    pci.writeConfig(4, 0x400 | 2, 2);
    expect(pci.line).toBe(false);
    pci.writeConfig(4, 2, 2);
    expect(pci.line).toBe(true);
    guest.runner.run(resetDevice(guest.registers));
    expect(pci.line).toBe(false);
    expect(pci.messages).toEqual([]);
  });

  test("4.1.5.1.2: with MSI-X each queue and the configuration send the vector that they were given", () => {
    const { guest, pci, state } = begin(true);
    let at = pci.readConfig(0x34, 1);
    while (pci.readConfig(at, 1) !== 0x11) at = pci.readConfig(at + 1, 1);
    pci.writeConfig(at + 2, 0x8000, 2);
    expect(pci.readConfig(at + 2, 2), "the size of the table is read-only").toBe(0x8000 | (MSIX_VECTORS - 1));
    expect(pci.readBar(0x10, 2), "none at first").toBe(0xffff);
    expect(common(pci, 0x10, 2, 2)).toBe(2);
    expect(common(pci, 0x10, 2, MSIX_VECTORS), "no such vector").toBe(0xffff);
    expect(common(pci, 0x10, 2, 2)).toBe(2);
    for (const queue of [0, 1]) {
      pci.writeBar(0x16, queue, 2);
      expect(pci.readBar(0x1a, 2)).toBe(0xffff);
      expect(common(pci, 0x1a, 2, queue)).toBe(queue);
    }
    state.interrupt(state.queues[1]!);
    pci.transport.deliver();
    expect(pci.messages.splice(0)).toEqual([1]);
    pci.transport.deliver();
    expect(pci.messages).toEqual([]);
    state.interrupt(state.queues[0]!);
    state.interrupt(state.queues[1]!);
    state.setDiskLength(1024);
    pci.transport.deliver();
    expect(pci.messages.splice(0)).toEqual([0, 1, 2]);
    expect(pci.line).toBe(false);
    // A queue without a vector is silent, and a reset takes the vectors away.
    common(pci, 0x1a, 2, 0xffff);
    state.interrupt(state.queues[1]!);
    pci.transport.deliver();
    guest.runner.run(resetDevice(guest.registers));
    expect(pci.readBar(0x10, 2)).toBe(0xffff);
    pci.writeBar(0x16, 0, 2);
    expect(pci.readBar(0x1a, 2)).toBe(0xffff);
    state.interrupt(state.queues[0]!);
    pci.transport.deliver();
    expect(pci.messages).toEqual([]);
  });

  test("4.1.4.9: the window takes accesses of the BAR that could be made, and no others", () => {
    const { pci } = begin();
    let at = pci.readConfig(0x34, 1);
    while (pci.readConfig(at + 3, 1) !== 5) at = pci.readConfig(at + 1, 1);
    const read = (offset: number, length: number, bar = 0): number => {
      pci.writeConfig(at + 4, bar, 1);
      pci.writeConfig(at + 8, offset, 4);
      pci.writeConfig(at + 12, length, 4);
      return pci.readConfig(at + 16, 4);
    };
    expect(read(0x12, 2)).toBe(2);
    expect(read(0x14, 1)).toBe(15);
    for (const [offset, length, bar] of [
      [0x12, 2, 1],
      [0x12, 3, 0],
      [0x12, 0, 0],
      [0x11, 2, 0],
      [0x100, 4, 0],
      [0xffff_fffc, 4, 0],
      [0x12, 0xffff_ffff, 0],
    ] as const)
      expect(read(offset, length, bar), `${offset} ${length} ${bar}`).toBe(0);
  });

  test("what is no virtio block device is refused", () => {
    const other: PciFunction = { readConfig: () => 0xffff_ffff, writeConfig() {}, readBar: () => 0, writeBar() {} };
    expect(() => new PciRegisters(other)).toThrow("no virtio block device");
  });
});

test.each([16, 32, 64])("interrupts of the queues arrive over PCI at %i requests in flight", (depth) => {
  let pci: TestPci | undefined;
  const guest = new OneThread({
    queueSize: depth,
    transport: (device) => {
      pci = new TestPci(device, "io");
      return new PciRegisters(pci);
    },
  });
  const queue = guest.queue();
  for (let round = 0; round < 50; round++) {
    for (let count = 0; count < depth; count++) queue.submit({ type: 4 });
    queue.commit();
    guest.poll();
    pci?.transport.deliver();
    expect(pci?.line).toBe(true);
    expect(queue.collect()).toBe(depth);
    expect(pci?.line).toBe(false);
    for (let slot = 0; slot < depth; slot++) queue.finish(slot);
  }
});
