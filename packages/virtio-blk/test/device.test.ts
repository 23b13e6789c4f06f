/** What each request type does, seen by a driver through the rings: virtio 1.2 §5.2.6. */
import type { ErrnoName } from "@spindle/base";
import { describe, expect, test } from "vitest";
import { CacheChoice, isWriteback } from "../src/cache-mode.ts";
import { MAX_SEGMENT_SECTORS } from "../src/config-space.ts";
import { DeviceState } from "../src/device-state.ts";
import {
  VIRTIO_BLK_F_CONFIG_WCE,
  VIRTIO_BLK_F_DISCARD,
  VIRTIO_BLK_F_FLUSH,
  VIRTIO_BLK_F_WRITE_ZEROES,
} from "../src/features.ts";
import { MmioTransport } from "../src/mmio.ts";
import { VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE } from "../src/queue-layout.ts";
import * as mmio from "../src/registers.ts";
import { OneThread, pattern } from "./one-thread.ts";

const OK = 0;
const IOERR = 1;
const UNSUPP = 2;

/** Sends one request of three buffers. @returns its status and the used length. */
function send(
  guest: OneThread,
  request: { type: number; sector?: number | bigint; readable?: Uint8Array; writable?: number },
): { status: number; used: number; data: Uint8Array } {
  const ring = guest.ring();
  const { spare } = guest;
  const { type, sector = 0, readable, writable = 0 } = request;
  guest.header(spare, type, sector);
  const data = spare + 4096;
  const status = spare + 16;
  const dataLength = readable?.length ?? writable;
  guest.bytes(data, Math.max(1, dataLength)).fill(0xaa);
  if (readable !== undefined) guest.bytes(data, readable.length).set(readable);
  guest.bytes(status, 1)[0] = 0xff;
  ring.setDescriptor(0, { address: spare, length: 16, flags: VIRTQ_DESC_F_NEXT, next: 1 });
  const dataFlags = VIRTQ_DESC_F_NEXT | (readable === undefined ? VIRTQ_DESC_F_WRITE : 0);
  ring.setDescriptor(1, { address: data, length: dataLength, flags: dataFlags, next: 2 });
  ring.setDescriptor(2, { address: status, length: 1, flags: VIRTQ_DESC_F_WRITE });
  guest.start();
  ring.offer(0);
  ring.publish();
  guest.poll();
  const used = ring.takeUsed();
  expect(used?.id).toBe(0);
  return {
    status: guest.bytes(status, 1)[0] as number,
    used: used?.length as number,
    data: guest.bytes(data, writable).slice(),
  };
}

/** One segment of a discard or write zeroes request. */
function segment(sector: number | bigint, sectors: number, flags = 0): Uint8Array {
  const view = new DataView(new ArrayBuffer(16));
  view.setBigUint64(0, BigInt(sector), true);
  view.setUint32(8, sectors, true);
  view.setUint32(12, flags, true);
  return new Uint8Array(view.buffer);
}

describe("reading and writing", () => {
  test("a write is on the disk and a read brings it back, with used lengths of what the device wrote", () => {
    const guest = new OneThread();
    const bytes = pattern(4096, 3);
    expect(send(guest, { type: 1, sector: 8, readable: bytes })).toMatchObject({ status: OK, used: 1 });
    expect(guest.disk.bytes.subarray(4096, 8192)).toEqual(bytes);
    const read = send(guest, { type: 0, sector: 8, writable: 4096 });
    expect(read).toMatchObject({ status: OK, used: 4097 });
    expect(read.data).toEqual(bytes);
  });

  test.each([
    ["beyond the end", 2048, 512],
    ["over the end", 2047, 1024],
    ["far beyond the end", 2 ** 40, 512],
    ["at the largest sector", 2n ** 64n - 1n, 512],
    ["at a sector whose byte offset wraps", 2n ** 55n, 512],
    ["of a part sector", 0, 513],
    ["of less than a sector", 0, 1],
  ])("a request %s is answered with IOERR and does not reach the disk", (_, sector, length) => {
    const guest = new OneThread();
    expect(send(guest, { type: 0, sector, writable: length })).toMatchObject({ status: IOERR, used: 0 });
    expect(send(guest, { type: 1, sector, readable: new Uint8Array(length) })).toMatchObject({ status: IOERR });
    expect(guest.disk.log).toEqual([]);
  });

  test("a failed read claims no byte that it did not write", () => {
    const guest = new OneThread();
    guest.disk.error = "EIO";
    const read = send(guest, { type: 0, writable: 512 });
    expect(read).toMatchObject({ status: IOERR, used: 0 });
    expect(read.data.every((byte) => byte === 0xaa)).toBe(true);
  });

  test("requests without data succeed", () => {
    const guest = new OneThread();
    expect(send(guest, { type: 0, writable: 0 })).toMatchObject({ status: OK, used: 1 });
    expect(send(guest, { type: 1, readable: new Uint8Array(0) })).toMatchObject({ status: OK });
  });

  test("requests are whole logical blocks", () => {
    const guest = new OneThread({ device: { logicalBlockSize: 4096 } });
    expect(send(guest, { type: 0, sector: 8, writable: 4096 }).status).toBe(OK);
    expect(send(guest, { type: 0, sector: 1, writable: 4096 }).status).toBe(IOERR);
    expect(send(guest, { type: 0, sector: 8, writable: 512 }).status).toBe(IOERR);
  });

  test("the length of the disk is looked at for each request", () => {
    const guest = new OneThread({ diskLength: 1536 });
    expect(send(guest, { type: 0, sector: 2, writable: 512 }).status).toBe(OK);
    expect(send(guest, { type: 0, sector: 3, writable: 512 }).status).toBe(IOERR);
  });
});

describe("durability", () => {
  test("a flush reaches the disk", () => {
    const guest = new OneThread();
    expect(send(guest, { type: 4 })).toMatchObject({ status: OK, used: 1 });
    expect(send(guest, { type: 5 })).toMatchObject({ status: OK });
    expect(guest.disk.log).toEqual(["flush", "flush"]);
  });

  const NO_FLUSH = VIRTIO_BLK_F_FLUSH;
  const NO_WCE = VIRTIO_BLK_F_CONFIG_WCE;
  const WRITEBACK = 0x100 + 32;

  /** What writes and zeroes of the driver become at the disk. */
  function written(guest: OneThread, queue = guest.queue()): string[] {
    guest.disk.log.length = 0;
    guest.runner.run(queue.write(0, new Uint8Array(512)));
    guest.runner.run(queue.writeZeroes(0, 512, true));
    return guest.disk.log.slice();
  }

  const VOLATILE = ["write 0 512", "zero 0 512 unmap"];
  const STABLE = ["write 0 512 fua", "zero 0 512 unmap fua"];

  test.each([
    ["FLUSH and CONFIG_WCE", 0, 1, VOLATILE],
    ["FLUSH alone", NO_WCE, 1, VOLATILE],
    ["CONFIG_WCE alone", NO_FLUSH, 0, STABLE],
    ["neither", NO_FLUSH | NO_WCE, 0, STABLE],
  ] as const)(
    "5.2.6.2: with %s, a completed write is stable or waits for a flush",
    (_, refused, writeback, expected) => {
      const guest = new OneThread({ refused });
      expect(guest.registers.read(WRITEBACK, 1)).toBe(writeback);
      expect(written(guest)).toEqual(expected);
    },
  );

  test("5.2.6.2: while writeback is 0, and CONFIG_WCE was negotiated, each write is stable", () => {
    const guest = new OneThread();
    const queue = guest.queue();
    for (const [value, reads, expected] of [
      [0, 0, STABLE],
      [1, 1, VOLATILE],
      [0, 0, STABLE],
      [255, 1, VOLATILE],
    ] as const) {
      guest.registers.write(WRITEBACK, value, 1);
      expect(guest.registers.read(WRITEBACK, 1)).toBe(reads);
      expect(written(guest, queue)).toEqual(expected);
    }
  });

  test("the mode is that of the write's submission, however long it takes", () => {
    const guest = new OneThread();
    guest.disk.open = false;
    guest.registers.write(WRITEBACK, 0, 1);
    const queue = guest.queue();
    queue.submit({ type: 1, length: 512 });
    queue.commit();
    guest.poll();
    guest.registers.write(WRITEBACK, 1, 1);
    guest.disk.open = true;
    guest.poll();
    expect(guest.disk.log).toEqual(["write 0 512 fua"]);
  });

  test("a driver without CONFIG_WCE cannot change the mode, and a reset forgets what one with it chose", () => {
    const guest = new OneThread({ refused: NO_WCE });
    guest.registers.write(WRITEBACK, 0, 1);
    expect(written(guest)).toEqual(VOLATILE);
    guest.start(0);
    guest.registers.write(WRITEBACK, 0, 1);
    expect(written(guest)).toEqual(STABLE);
    guest.start(0);
    expect(written(guest)).toEqual(VOLATILE);
  });

  test("5.2.5.2: what was written before FEATURES_OK does not stay: without FLUSH the mode begins as writethrough", () => {
    const guest = new OneThread({
      refused: NO_FLUSH,
      transport: (device) => {
        const registers = new MmioTransport(device);
        return {
          read: (offset, width) => registers.read(offset, width),
          write(offset, value, width) {
            if (offset === mmio.VIRTIO_MMIO_DRIVER_FEATURES) registers.write(WRITEBACK, 1, 1);
            registers.write(offset, value, width);
          },
        };
      },
    });
    expect(guest.registers.read(WRITEBACK, 1)).toBe(0);
    expect(written(guest)).toEqual(STABLE);
  });

  test("writeback is written by any access that covers it, and nothing else of the configuration is", () => {
    const guest = new OneThread();
    const before = new DeviceState(guest.device).readConfiguration(0, 64);
    for (const [offset, width] of [
      [32, 1],
      [32, 2],
      [32, 4],
      [31, 2],
      [29, 4],
      [30, 4],
    ] as const) {
      guest.registers.write(0x100 + offset, 0, width);
      expect(guest.registers.read(WRITEBACK, 1), `${offset}/${width}`).toBe(0);
      guest.registers.write(WRITEBACK, 1, 1);
    }
    for (let offset = 0; offset < 80; offset++) if (offset !== 32) guest.registers.write(0x100 + offset, 0x5a, 1);
    expect(new DeviceState(guest.device).readConfiguration(0, 64)).toEqual(before);
  });
});

test("a legacy driver sees the mode change by what it writes, and at DRIVER_OK when it cannot write", () => {
  const legacy = (low: number, fixed: boolean, choice: CacheChoice): boolean =>
    isWriteback({ low, high: 0 }, fixed, choice);
  const both = VIRTIO_BLK_F_FLUSH | VIRTIO_BLK_F_CONFIG_WCE;
  for (const low of [0, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_CONFIG_WCE, both]) {
    expect(legacy(low, false, CacheChoice.none)).toBe(true);
    expect(legacy(low, false, CacheChoice.writethrough)).toBe(false);
  }
  expect(legacy(VIRTIO_BLK_F_CONFIG_WCE, true, CacheChoice.none)).toBe(true);
  expect(legacy(VIRTIO_BLK_F_CONFIG_WCE, true, CacheChoice.writethrough)).toBe(false);
  expect(legacy(0, true, CacheChoice.none)).toBe(false);
  expect(legacy(VIRTIO_BLK_F_FLUSH, true, CacheChoice.none)).toBe(true);
});

describe("discard and write zeroes", () => {
  test.each([
    [11, "discard 512 1024"],
    [13, "zero 512 1024"],
  ])("type %i reaches the disk", (type, logged) => {
    const guest = new OneThread();
    expect(send(guest, { type, readable: segment(1, 2) })).toMatchObject({ status: OK, used: 1 });
    expect(guest.disk.log).toEqual([logged]);
  });

  test.each([
    [11, (offset: number) => `discard ${offset} 512`],
    [13, (offset: number) => `zero ${offset} 512`],
  ])("type %i takes up to 256 segments, and does them in order", (type, logged) => {
    const guest = new OneThread();
    const queue = guest.queue();
    for (const count of [2, 3, 255, 256]) {
      guest.disk.log.length = 0;
      const ranges = Array.from({ length: count }, (_, index) => ({ offset: ((index * 7) % 2048) * 512, length: 512 }));
      guest.runner.run(queue.ranges(type, ranges));
      expect(guest.disk.log).toEqual(ranges.map(({ offset }) => logged(offset)));
    }
  });

  test("5.2.6.2: after zeroes with several segments the ranges read as zeros, whether unmap is set or not", () => {
    const guest = new OneThread();
    guest.disk.bytes.fill(7);
    const queue = guest.queue();
    guest.runner.run(
      queue.ranges(13, [
        { offset: 0, length: 512 },
        { offset: 2048, length: 1024, unmap: true },
        { offset: 8192, length: 512 },
      ]),
    );
    const zeros = [...guest.disk.bytes.subarray(0, 16_384)].filter((byte) => byte === 0).length;
    expect(zeros).toBe(2048);
    expect(guest.disk.log).toEqual(["zero 0 512", "zero 2048 1024 unmap", "zero 8192 512"]);
  });

  test("5.2.6.2: the unmap flag lets write zeroes deallocate, and makes discard unsupported", () => {
    const guest = new OneThread();
    expect(send(guest, { type: 13, readable: segment(0, 1, 1) }).status).toBe(OK);
    expect(send(guest, { type: 11, readable: segment(0, 1, 1) }).status).toBe(UNSUPP);
    expect(guest.disk.log).toEqual(["zero 0 512 unmap"]);
  });

  test.each([11, 13])("type %i is validated", (type) => {
    const guest = new OneThread({ diskLength: 8 * 1024 * 1024 });
    const sectors = guest.disk.length / 512;
    const join = (...segments: Uint8Array[]): Uint8Array => new Uint8Array(segments.flatMap((one) => [...one]));
    const status = (readable: Uint8Array): number => send(guest, { type, readable }).status;
    expect(status(new Uint8Array(257 * 16)), "257 segments").toBe(UNSUPP);
    expect(status(new Uint8Array(1024 * 16)), "1024 segments").toBe(UNSUPP);
    expect(status(join(segment(0, 1), segment(1, 1, 2))), "a reserved flag in the second").toBe(UNSUPP);
    expect(status(join(segment(0, 1), segment(sectors, 1))), "the second beyond the end").toBe(IOERR);
    expect(status(join(segment(0, 1), segment(0, MAX_SEGMENT_SECTORS + 1))), "the second too long").toBe(IOERR);
    expect(status(join(segment(0, 1), segment(1, 1).subarray(0, 7))), "a second that is cut off").toBe(IOERR);
    expect(status(segment(0, 1, 2)), "a reserved flag").toBe(UNSUPP);
    expect(status(segment(0, 1, 2 ** 31)), "another reserved flag").toBe(UNSUPP);
    expect(status(segment(0, MAX_SEGMENT_SECTORS + 1)), "too many sectors").toBe(IOERR);
    expect(status(segment(sectors, 1)), "beyond the end").toBe(IOERR);
    expect(status(segment(2n ** 64n - 1n, 2)), "a sum that wraps").toBe(IOERR);
    expect(status(segment(0, 1).subarray(0, 15)), "15 bytes").toBe(IOERR);
    expect(status(new Uint8Array(0)), "no segment").toBe(IOERR);
    expect(status(new Uint8Array(24)), "one and a half").toBe(IOERR);
    expect(guest.disk.log).toEqual([]);
    expect(status(segment(0, 0)), "no sectors").toBe(OK);
    expect(status(segment(0, sectors)), "the whole disk").toBe(OK);
  });

  test("are unsupported where the driver did not take the feature", () => {
    const guest = new OneThread({ refused: VIRTIO_BLK_F_DISCARD | VIRTIO_BLK_F_WRITE_ZEROES });
    expect(send(guest, { type: 11, readable: segment(0, 1) }).status).toBe(UNSUPP);
    expect(send(guest, { type: 13, readable: segment(0, 1) }).status).toBe(UNSUPP);
  });
});

test("5.2.6.2: a read-only device answers every change with IOERR and writes nothing", () => {
  const guest = new OneThread({ readOnly: true });
  expect(send(guest, { type: 1, readable: new Uint8Array(512) }).status).toBe(IOERR);
  expect(send(guest, { type: 11, readable: segment(0, 1) }).status).toBe(IOERR);
  expect(send(guest, { type: 13, readable: segment(0, 1) }).status).toBe(IOERR);
  expect(guest.disk.log).toEqual([]);
  expect(send(guest, { type: 0, writable: 512 }).status).toBe(OK);
});

test.each([
  ["secure erase", 14],
  ["get lifetime", 10],
  ["zone append", 15],
  ["zone report", 16],
  ["zone open", 18],
  ["zone close", 20],
  ["zone finish", 22],
  ["zone reset", 24],
  ["zone reset all", 26],
])("5.2.6.2: %s, which is not offered, is unsupported with any flags and any segments", (_, type) => {
  const guest = new OneThread();
  expect(send(guest, { type, readable: segment(0, 1) }).status).toBe(UNSUPP);
  expect(send(guest, { type, readable: segment(0, 1, 0xffff_ffff) }).status).toBe(UNSUPP);
  expect(send(guest, { type, readable: new Uint8Array(7) }).status).toBe(UNSUPP);
  expect(guest.disk.log).toEqual([]);
});

test("GET_ID gives the serial, padded with zeros, in as many bytes as there are up to 20", () => {
  const guest = new OneThread();
  const text = (bytes: Uint8Array): string => String.fromCharCode(...bytes);
  const full = send(guest, { type: 8, writable: 20 });
  expect(full).toMatchObject({ status: OK, used: 21 });
  expect(text(full.data)).toBe(`spindle-0${"\0".repeat(11)}`);
  const short = send(guest, { type: 8, writable: 4 });
  expect(short.used).toBe(5);
  expect(text(short.data)).toBe("spin");
  const long = send(guest, { type: 8, writable: 64 });
  expect(long).toMatchObject({ status: OK, used: 20 });
  expect([...long.data.subarray(20)].every((byte) => byte === 0xaa)).toBe(true);
});

test.each([2, 3, 6, 7, 10, 14, 15, 26, 99, 0x7fff_ffff])("request type %i is unsupported", (type) => {
  const guest = new OneThread();
  expect(send(guest, { type, writable: 512 }).status).toBe(UNSUPP);
});

test("the barrier flag of old drivers is ignored", () => {
  const guest = new OneThread();
  expect(send(guest, { type: 0x8000_0001, readable: pattern(512, 1) }).status).toBe(OK);
  expect(guest.disk.bytes.subarray(0, 512)).toEqual(pattern(512, 1));
});

test.each<ErrnoName>(["EIO", "ENOSPC", "EROFS", "ENOTSUP", "EINVAL"])(
  "an error %s of the disk becomes a status",
  (code) => {
    const guest = new OneThread();
    guest.disk.error = code;
    const expected = code === "ENOTSUP" ? UNSUPP : IOERR;
    expect(send(guest, { type: 0, writable: 512 }).status).toBe(expected);
    expect(send(guest, { type: 4 }).status).toBe(expected);
  },
);
