/**
 * Sentences of the specification that no other test is about: what is written in which order, what is written at all, and
 * which words are ignored. And that docs/virtio-blk.md, which lists them all, names tests that there are.
 */
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { DeviceState } from "../src/device-state.ts";
import type { Descriptor } from "../src/driver/driver-ring.ts";
import { PackedDriverRing } from "../src/driver/packed-driver-ring.ts";
import { SplitDriverRing } from "../src/driver/split-driver-ring.ts";
import { ringFeatures, VIRTIO_F_EVENT_IDX } from "../src/features.ts";
import { GuestMemory } from "../src/guest-memory.ts";
import * as mmio from "../src/registers.ts";
import type { ServedQueue } from "../src/served-queue.ts";
import { OneThread, pattern, SPARE_BYTES } from "./one-thread.ts";
import { RecordingMemory } from "./recording-memory.ts";

const FORMS = [
  ["split", {}],
  ["packed", { packed: true }],
  ["split in order", { inOrder: true }],
  ["packed in order", { packed: true, inOrder: true }],
] as const;

/** A device whose queue is served by the test, through memory that records. */
function recorded(device: object, refused = 0): { guest: OneThread; memory: RecordingMemory; served: ServedQueue } {
  const guest = new OneThread({ queueSize: 16, device, refused });
  const memory = new RecordingMemory(guest.device.memory);
  return { guest, memory, served: guest.serveByHand(memory) };
}

describe.each(FORMS)("the device on %s rings", (form, device) => {
  const packed = form.startsWith("packed");

  test("writes status and length before what makes them the driver's, and nothing of a chain after that", () => {
    const { guest, memory, served } = recorded(device);
    const queue = guest.queue();
    const { layout, slotsAddress } = guest.plans[0]!;
    for (let round = 0; round < 40; round++) {
      const slot = queue.submit({ type: 0, length: 512 });
      queue.commit();
      memory.stores.length = 0;
      served.poll(true);
      const status = memory.placesOf(slotsAddress + slot * 128 + 32, 1);
      const element = packed
        ? layout.descriptorAddress + 16 * (round % 16)
        : layout.deviceAddress + 4 + 8 * (round % 16);
      const [content, owner] = packed
        ? [memory.placesOf(element + 8, 6), memory.placesOf(element + 14, 2)]
        : [memory.placesOf(element, 8), memory.placesOf(layout.deviceAddress + 2, 2)];
      expect([status.length, content.length, owner.length]).toEqual([1, 2, 1]);
      expect(Math.max(...status, ...content)).toBeLessThan(owner[0] as number);
      queue.collect();
      expect(queue.finish(slot)).toBe(0);
    }
  });

  test("writes to memory what it was given to write, and nothing else", () => {
    const guest = new OneThread({ queueSize: 16, device, refused: 0 });
    const { layout } = guest.plans[0]!;
    const queue = guest.queue();
    const all = guest.bytes(0, guest.device.memory.regions[0]!.length);
    for (const [type, writable] of [
      [0, 1024],
      [1, 0],
      [4, 0],
      [8, 20],
      [11, 0],
      [13, 0],
      [14, 0],
      [99, 0],
    ] as const) {
      const slot = queue.submit({ type, offset: 0, length: type === 4 ? 0 : type === 8 ? 20 : 1024 });
      queue.commit();
      const before = all.slice();
      guest.poll();
      const buffer = queue.buffer(slot);
      const allowed: (readonly [number, number])[] = [
        [buffer.byteOffset, writable],
        [guest.plans[0]!.slotsAddress + slot * 128 + 32, 1],
        [packed ? layout.descriptorAddress : layout.deviceAddress, packed ? 16 * 16 : 6 + 8 * 16],
        [layout.deviceAddress, packed ? 4 : 0],
      ];
      const changed: number[] = [];
      for (let at = 0; at < all.length; at++)
        if (all[at] !== before[at] && !allowed.some(([start, length]) => at >= start && at < start + length))
          changed.push(at);
      expect(changed, `type ${type}`).toEqual([]);
      queue.collect();
      queue.finish(slot);
    }
    expect(all.length).toBeGreaterThan(SPARE_BYTES);
  });

  test("is not confused by kicks without buffers, nor the driver by interrupts", () => {
    const guest = new OneThread({ queueSize: 16, device });
    const queue = guest.queue();
    const state = new DeviceState(guest.device);
    for (let round = 0; round < 50; round++) {
      for (let kick = 0; kick < 3; kick++) guest.registers.write(mmio.VIRTIO_MMIO_QUEUE_NOTIFY, 0);
      guest.poll();
      state.interrupt(state.queues[0]!);
      expect(queue.collect()).toBe(0);
      guest.runner.run(queue.flush());
    }
    expect(guest.disk.log.length).toBe(50);
  });

  test("finds rings that the driver has cleared, whatever was there before", () => {
    const guest = new OneThread({ queueSize: 16, device });
    const { layout } = guest.plans[0]!;
    for (const fill of [0xff, 0x80, 0x01]) {
      guest.runner.run(guest.queue().flush());
      guest.registers.write(mmio.VIRTIO_MMIO_STATUS, 0);
      guest.poll();
      for (const [address, length] of [
        [layout.descriptorAddress, 16 * 16],
        [layout.driverAddress, 38],
        [layout.deviceAddress, 134],
      ] as const)
        guest.bytes(address, length).fill(fill);
      guest.start();
      const queue = guest.queue();
      for (let round = 0; round < 40; round++) guest.runner.run(queue.flush());
      guest.start();
    }
  });
});

describe("the words for notifications", () => {
  test("2.7.7: flags are 0 or 1 without the event index, and 0 with it, on both sides", () => {
    for (const refused of [0, VIRTIO_F_EVENT_IDX]) {
      const guest = new OneThread({ queueSize: 8, refused });
      const { layout } = guest.plans[0]!;
      const queue = guest.queue();
      const seen = new Set<number>();
      for (let round = 0; round < 50; round++) {
        guest.runner.run(queue.flush());
        for (const address of [layout.driverAddress, layout.deviceAddress])
          seen.add(guest.memory.window(address, 2)!.u16(0));
      }
      const ring = guest.ring();
      ring.suppressInterrupts();
      seen.add(guest.memory.window(layout.driverAddress, 2)!.u16(0));
      expect([...seen].every((flags) => flags === 0 || (flags === 1 && refused !== 0))).toBe(true);
    }
  });

  test("2.7.7.2: without the event index used_event is ignored, and with it the lower bit of flags", () => {
    for (const [refused, offset, values] of [
      [VIRTIO_F_EVENT_IDX, 4 + 2 * 8, [0, 1, 5, 0xffff]],
      [0, 0, [1, 0xffff]],
    ] as const) {
      const guest = new OneThread({ queueSize: 8, refused });
      const state = new DeviceState(guest.device);
      const queue = guest.queue();
      for (const value of values) {
        guest.memory.window(guest.plans[0]!.layout.driverAddress, 32)!.setU16(offset, value);
        if (refused === 0)
          guest.memory.window(guest.plans[0]!.layout.driverAddress, 32)!.setU16(20, values.indexOf(value as never));
        guest.registers.write(mmio.VIRTIO_MMIO_INTERRUPT_ACK, 3);
        const slot = queue.submit({ type: 4 });
        queue.commit();
        guest.poll();
        expect(state.interruptStatus & 1, `${refused} ${value}`).toBe(1);
        queue.collect();
        queue.finish(slot);
      }
    }
  });

  test("2.7.10: without the event index avail_event is ignored by the driver, and with it the lower bit of flags", () => {
    for (const eventIndex of [false, true]) {
      const guest = new OneThread({ queueSize: 8, refused: eventIndex ? 0 : VIRTIO_F_EVENT_IDX });
      guest.stopping = true;
      guest.poll();
      const { layout } = guest.plans[0]!;
      const used = guest.memory.window(layout.deviceAddress, 6 + 8 * 8)!;
      for (const noise of [0, 1, 7, 0xffff]) {
        const ring = new SplitDriverRing(guest.memory, layout, ringFeatures(guest.guest.features));
        // What counts says kick, and what does not count says that there is no need to.
        used.setU16(0, eventIndex ? 1 : 0);
        used.setU16(4 + 8 * 8, eventIndex ? 0 : noise);
        ring.offer(0);
        expect(ring.publish()).toBe(true);
        used.setU16(0, eventIndex ? 0 : 1);
        used.setU16(4 + 8 * 8, eventIndex ? 0 : 1);
        ring.offer(0);
        expect(ring.publish()).toBe(false);
      }
    }
  });
});

describe("the driver", () => {
  const buffer = (address: number): Descriptor => ({ address, length: 16 });

  test("writes descriptors before it shows them, and the first one's flags last", () => {
    const guest = new OneThread({ queueSize: 16 });
    const { layout } = guest.plans[0]!;
    const features = ringFeatures(guest.guest.features);
    const memory = new RecordingMemory(guest.device.memory);
    const split = new SplitDriverRing(memory, layout, features, 3);
    for (let round = 0; round < 10; round++) {
      memory.stores.length = 0;
      split.offerChain(round % 5, [buffer(0), buffer(16), buffer(32)]);
      split.publish();
      expect(memory.placesOf(layout.driverAddress + 2, 2)).toEqual([memory.stores.length - 1]);
    }
    const packed = new PackedDriverRing(memory, layout, { ...features, packed: true });
    for (let round = 0; round < 10; round++) {
      memory.stores.length = 0;
      packed.offerChain(0, [buffer(0), buffer(16), buffer(32)]);
      packed.offerChain(1, [buffer(48)]);
      packed.publish();
      const first = layout.descriptorAddress + 16 * ((4 * round) % 16);
      expect(memory.placesOf(first + 14, 2)).toEqual([memory.stores.length - 1]);
    }
  });

  test("2.7.5: in order it uses descriptors in the table's order, and around its end", () => {
    const guest = new OneThread({ queueSize: 8, device: { inOrder: true } });
    const { layout } = guest.plans[0]!;
    const ring = guest.ring();
    const table = guest.memory.window(layout.descriptorAddress, 8 * 16)!;
    let place = 0;
    for (let round = 0; round < 20; round++) {
      const chain = [buffer(0), buffer(16), buffer(32)].slice(0, 1 + (round % 3));
      ring.offerChain(round % 8, chain);
      expect(guest.memory.window(layout.driverAddress, 64)!.u16(4 + 2 * (round % 8)), "head").toBe(place);
      for (let index = 0; index < chain.length; index++, place = (place + 1) % 8) {
        const last = index === chain.length - 1;
        expect(table.u16(16 * place + 12) & 1).toBe(last ? 0 : 1);
        if (!last) expect(table.u16(16 * place + 14)).toBe((place + 1) % 8);
      }
    }
  });

  test("2.7.5.3: indirect tables stand in order, and in packed rings have no flag but the one for writing", () => {
    for (const device of [{}, { packed: true }]) {
      const guest = new OneThread({ queueSize: 8, device });
      const queue = guest.queue();
      const slots = [
        queue.submit({ type: 0, length: 512 }),
        queue.submit({ type: 1, length: 512 }),
        queue.submit({ type: 4 }),
      ];
      const entries = slots.map((slot, index) => {
        const table = guest.memory.window(guest.plans[0]!.slotsAddress + slot * 128 + (index === 2 ? 96 : 48), 32)!;
        return [table.u16(12), table.u16(14), table.u16(28), table.u16(30)];
      });
      const packed = [
        [0, 0, 0, 2],
        [0, 0, 0, 0],
        [0, 0, 0, 2],
      ];
      const split = [
        [1, 1, 3, 2],
        [1, 1, 1, 2],
        [1, 1, 2, 0],
      ];
      expect(entries).toEqual("packed" in device ? packed : split);
    }
  });

  test("5.2.6.1: sends flushes with sector 0 and no data, and asks for identities with 20 bytes", () => {
    const guest = new OneThread({ queueSize: 8 });
    const queue = guest.queue();
    const first = queue.submit({ type: 4, offset: 4096 });
    const header = guest.memory.window(guest.plans[0]!.slotsAddress + first * 128, 128)!;
    expect([header.u32(0), header.u32(8), header.u32(12)]).toEqual([4, 0, 0]);
    queue.commit();
    guest.poll();
    expect(guest.runner.run(queue.getId()).length).toBe(20);
  });

  test("its chains fit the queue, with and without tables, also in a queue of one entry", () => {
    for (const [, device] of FORMS)
      for (const refused of [0, 1 << 28])
        for (const queueSize of [1, 2, 4, 8]) {
          const guest = new OneThread({ queueSize, device, refused });
          const queue = guest.queue();
          expect(queue.depth).toBe(refused === 0 ? queueSize : Math.floor(queueSize / 3));
          for (let round = 0; round < 30; round++) {
            let submitted = 0;
            while (queue.submit({ type: round % 2, offset: 0, length: 512 }) >= 0) submitted += 1;
            queue.commit();
            guest.poll();
            expect(queue.collect()).toBe(submitted);
            for (let slot = 0; slot < submitted; slot++) expect(queue.finish(slot)).toBe(0);
          }
        }
  });
});

test("2.8.14: descriptors are used only when their flags have changed: a ring of zeros, and of last turn's, has none", () => {
  const guest = new OneThread({ queueSize: 8, device: { packed: true } });
  const queue = guest.queue();
  guest.poll();
  expect(guest.disk.log).toEqual([]);
  for (let round = 0; round < 100; round++) {
    guest.runner.run(queue.write(0, pattern(512, round)));
    // The other seven descriptors of the ring hold what was used in this turn or the last.
    for (let kick = 0; kick < 3; kick++) {
      guest.registers.write(mmio.VIRTIO_MMIO_QUEUE_NOTIFY, 0);
      guest.poll();
    }
    expect(guest.disk.log.length).toBe(round + 1);
  }
});

/** The sentences of each chapter, as docs/virtio-blk.md numbers them. */
const SENTENCES = { B: 69, S: 38, P: 22 };

describe("the documentation's table", () => {
  const text = readFileSync(new URL("../../../docs/virtio-blk.md", import.meta.url), "utf8");
  const rows = text.split("\n").filter((line) => /^\| [BSP]\d/.test(line));

  test("has every sentence once", () => {
    for (const [chapter, count] of Object.entries(SENTENCES)) {
      const numbers = rows.flatMap((row) => {
        const [, letter, list = ""] = /^\| ([BSP])([\d, -]+) \|/.exec(row) ?? [];
        if (letter !== chapter) return [];
        return list.split(", ").flatMap((range) => {
          const [first = 0, last = first] = range.split("-").map(Number);
          return Array.from({ length: last - first + 1 }, (_, index) => first + index);
        });
      });
      expect(numbers.sort((a, b) => a - b)).toEqual(Array.from({ length: count }, (_, index) => index + 1));
    }
  });

  test("names tests that there are", () => {
    const missing = rows.flatMap((row) => {
      const [, file = "", title = ""] = /`([a-z-]+)\.test\.ts`: (.+?) \|$/.exec(row) ?? [];
      const source = file === "" ? "" : readFileSync(new URL(`./${file}.test.ts`, import.meta.url), "utf8");
      return title !== "" && source.includes(title) ? [] : [row];
    });
    expect(missing).toEqual([]);
  });
});

test("the recording records", () => {
  const memory = new RecordingMemory(GuestMemory.create(4096));
  memory.window(16, 16)?.setU32(4, 7);
  memory.window(32, 16)?.storeU16(0, 9);
  expect(memory.placesOf(20, 4)).toEqual([0]);
  expect(memory.placesOf(32, 2)).toEqual([1]);
  expect(memory.placesOf(0, 16)).toEqual([]);
});
