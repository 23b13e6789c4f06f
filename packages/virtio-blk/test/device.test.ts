/** What each request type does, seen by a driver through the rings: virtio 1.2 §5.2.6. */
import type { ErrnoName } from "@spindle/base";
import { describe, expect, test } from "vitest";
import { MAX_SEGMENT_SECTORS } from "../src/config-space.ts";
import { VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_WRITE_ZEROES } from "../src/features.ts";
import { VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE } from "../src/queue-layout.ts";
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

  test("5.2.6.2: where the driver took FLUSH, a write waits for a flush to be stable", () => {
    const guest = new OneThread();
    send(guest, { type: 1, readable: new Uint8Array(512) });
    send(guest, { type: 13, readable: segment(0, 1) });
    expect(guest.disk.log).toEqual(["write 0 512", "zero 0 512"]);
  });

  test("5.2.6.2: where the driver did not take FLUSH, a completed write is stable", () => {
    const guest = new OneThread({ refused: VIRTIO_BLK_F_FLUSH });
    send(guest, { type: 1, readable: new Uint8Array(512) });
    send(guest, { type: 13, readable: segment(0, 1, 1) });
    expect(guest.disk.log).toEqual(["write 0 512 fua", "zero 0 512 unmap fua"]);
  });
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

  test("5.2.6.2: the unmap flag lets write zeroes deallocate, and makes discard unsupported", () => {
    const guest = new OneThread();
    expect(send(guest, { type: 13, readable: segment(0, 1, 1) }).status).toBe(OK);
    expect(send(guest, { type: 11, readable: segment(0, 1, 1) }).status).toBe(UNSUPP);
    expect(guest.disk.log).toEqual(["zero 0 512 unmap"]);
  });

  test.each([11, 13])("type %i is validated", (type) => {
    const guest = new OneThread({ diskLength: 8 * 1024 * 1024 });
    const sectors = guest.disk.length / 512;
    const two = new Uint8Array([...segment(0, 1), ...segment(1, 1)]);
    const status = (readable: Uint8Array): number => send(guest, { type, readable }).status;
    expect(status(two), "two segments").toBe(UNSUPP);
    expect(status(new Uint8Array(256 * 16)), "256 segments").toBe(UNSUPP);
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
