/** What the device does about errors of the disk, as QEMU's rerror and werror, and what the host hears of it. */
import type { ErrnoName } from "@spindle/base";
import { describe, expect, test } from "vitest";
import { DeviceState } from "../src/device-state.ts";
import type { GuestQueue, GuestRequest } from "../src/driver/guest-queue.ts";
import type { ErrorPolicy, IoErrorReport } from "../src/io-error.ts";
import * as mmio from "../src/registers.ts";
import { OneThread } from "./one-thread.ts";

const OK = 0;
const IOERR = 1;
const REQUESTS: readonly (readonly [string, GuestRequest])[] = [
  ["a read", { type: 0, offset: 1024, length: 512 }],
  ["a write", { type: 1, offset: 1024, length: 512 }],
  ["a flush", { type: 4 }],
  ["a discard", { type: 11, offset: 1024, length: 512 }],
  ["a write of zeroes", { type: 13, offset: 1024, length: 512 }],
];

interface Rig {
  readonly guest: OneThread;
  readonly state: DeviceState;
  readonly queue: GuestQueue;
}

function rig(policies: { rerror?: "report" | "ignore" | "stop"; werror?: ErrorPolicy }, queueCount = 1): Rig {
  const guest = new OneThread({ queueCount, device: policies });
  return { guest, state: new DeviceState(guest.device), queue: guest.queue() };
}

/** Submits a request and lets it go as far as it goes. @returns its status, when it has ended. */
function run({ guest, queue }: Rig, request: GuestRequest): number | undefined {
  const slot = queue.submit(request);
  queue.commit();
  guest.poll();
  queue.collect();
  return queue.ended(slot) ? queue.finish(slot) : undefined;
}

function report(request: GuestRequest, action: string, reason: ErrnoName = "EIO"): IoErrorReport {
  const { type, offset = 0, length = 0 } = request;
  const operation = type === 0 ? "read" : "write";
  const nospace = reason === "ENOSPC";
  return { queue: 0, operation, action, nospace, reason, offset, length, missed: 0 } as IoErrorReport;
}

describe.each(REQUESTS)("%s that fails", (_, request) => {
  test("is reported when nothing else was asked for", () => {
    const one = rig({});
    one.guest.disk.error = "EIO";
    expect(run(one, request)).toBe(IOERR);
    expect(one.state.takeIoErrors()).toEqual([report(request, "report")]);
    expect(one.state.takeIoErrors()).toEqual([]);
    expect(one.state.stopped).toBe(false);
  });

  test("is ignored where that was asked for, and a read finds zeros then", () => {
    const one = rig({ rerror: "ignore", werror: "ignore" });
    one.guest.disk.error = "EIO";
    const slot = one.queue.submit(request);
    one.queue.buffer(slot).fill(0x55, 0, request.type < 2 ? 512 : 0);
    one.queue.commit();
    one.guest.poll();
    one.queue.collect();
    expect(one.queue.finish(slot)).toBe(OK);
    if (request.type === 0) expect([...one.queue.buffer(slot).subarray(0, 512)].every((byte) => byte === 0)).toBe(true);
    expect(one.state.takeIoErrors()).toEqual([report(request, "ignore")]);
  });

  test("waits where it stops the device, and is done again after the host has resumed it", () => {
    const one = rig({ rerror: "stop", werror: "stop" });
    one.guest.disk.error = "EIO";
    const slot = one.queue.submit(request);
    one.queue.commit();
    for (let round = 1; round <= 3; round++) {
      one.guest.poll();
      one.queue.collect();
      expect(one.queue.ended(slot)).toBe(false);
      expect(one.state.stopped).toBe(true);
      expect(one.state.takeIoErrors()).toEqual([report(request, "stop")]);
      expect(one.guest.disk.log.length).toBe(round);
      // Still broken: it is tried once for each time the host resumes.
      if (round === 3) one.guest.disk.error = undefined;
      one.state.resume();
    }
    one.guest.poll();
    one.queue.collect();
    expect(one.queue.finish(slot)).toBe(OK);
    expect(one.state.stopped).toBe(false);
    expect(new Set(one.guest.disk.log).size, "the same request each time").toBe(1);
  });

  test("stops for want of space and is reported otherwise, where that was asked for", () => {
    const one = rig({ rerror: "report", werror: "enospc" });
    one.guest.disk.error = "EIO";
    expect(run(one, request)).toBe(IOERR);
    one.guest.disk.error = "ENOSPC";
    const isRead = request.type === 0;
    expect(run(one, request)).toBe(isRead ? IOERR : undefined);
    expect(one.state.takeIoErrors()[1]).toEqual(report(request, isRead ? "report" : "stop", "ENOSPC"));
    expect(one.state.stopped).toBe(!isRead);
  });

  test("with ENOTSUP is unsupported, whatever the policy", () => {
    const one = rig({ rerror: "stop", werror: "ignore" });
    one.guest.disk.error = "ENOTSUP";
    expect(run(one, request)).toBe(2);
    expect(one.state.takeIoErrors()).toEqual([]);
  });
});

test("rerror is for reads and werror for all else", () => {
  const one = rig({ rerror: "ignore", werror: "report" });
  one.guest.disk.error = "EIO";
  expect(REQUESTS.map(([, request]) => run(one, request))).toEqual([OK, IOERR, IOERR, IOERR, IOERR]);
});

test("requests that make no sense are no errors of the disk", () => {
  const one = rig({ rerror: "stop", werror: "stop" });
  expect(run(one, { type: 0, offset: 2 ** 40, length: 512 })).toBe(IOERR);
  expect(run(one, { type: 11, offset: 2 ** 40, length: 512 })).toBe(IOERR);
  expect(one.state.takeIoErrors()).toEqual([]);
  expect(one.state.stopped).toBe(false);
});

describe("a stopped device", () => {
  /** Two queues, of which the first has a write that stopped the device. */
  function stopped(): Rig & { readonly other: GuestQueue; readonly slot: number } {
    const one = rig({ werror: "stop" }, 2);
    one.guest.disk.error = "ENOSPC";
    const slot = one.queue.submit({ type: 1, length: 512 });
    one.queue.commit();
    one.guest.poll();
    expect(one.state.stopped).toBe(true);
    one.guest.disk.error = undefined;
    one.guest.disk.log.length = 0;
    return { ...one, other: one.guest.queue(1), slot };
  }

  test("begins nothing new on any queue until it is resumed, and then all of it", () => {
    const { guest, state, queue, other, slot } = stopped();
    const later = [queue.submit({ type: 4 }), queue.submit({ type: 1, length: 512 })];
    const elsewhere = other.submit({ type: 4 });
    queue.commit();
    other.commit();
    guest.poll();
    expect(guest.disk.log).toEqual([]);
    state.resume();
    guest.poll();
    queue.collect();
    other.collect();
    expect([slot, ...later].map((one) => queue.finish(one))).toEqual([OK, OK, OK]);
    expect(other.finish(elsewhere)).toBe(OK);
    expect(guest.disk.log.length).toBe(4);
  });

  test("lets end what is in flight, and what of that fails waits as well", () => {
    const one = rig({ werror: "stop" });
    one.guest.disk.open = false;
    const slots = [1, 2, 3].map(() => one.queue.submit({ type: 4 }));
    one.queue.commit();
    one.guest.poll();
    one.guest.disk.error = "EIO";
    one.guest.disk.open = true;
    one.guest.poll();
    expect(one.state.takeIoErrors().length).toBe(3);
    one.guest.disk.error = undefined;
    one.state.resume();
    one.guest.poll();
    expect(one.queue.collect()).toBe(3);
    expect(slots.map((slot) => one.queue.finish(slot))).toEqual([OK, OK, OK]);
  });

  test("can be reset: what waited is forgotten, and the host still decides when it goes on", () => {
    const { guest, state } = stopped();
    guest.registers.write(mmio.VIRTIO_MMIO_STATUS, 0);
    guest.poll();
    expect(guest.registers.read(mmio.VIRTIO_MMIO_STATUS)).toBe(0);
    guest.start();
    const queue = guest.queue();
    const slot = queue.submit({ type: 4 });
    queue.commit();
    guest.poll();
    expect(queue.collect()).toBe(0);
    state.resume();
    guest.poll();
    queue.collect();
    expect(queue.finish(slot)).toBe(OK);
    expect(guest.disk.log).toEqual(["flush"]);
  });

  test("answers what waits with the error when its server ends, so that the server can end", () => {
    const { guest, queue, slot } = stopped();
    guest.stopping = true;
    guest.poll();
    expect(guest.served).toEqual({ error: undefined });
    queue.collect();
    expect(queue.finish(slot)).toBe(IOERR);
  });
});

test("the host's doorbell is rung, and a host that does not look costs reports and nothing else", () => {
  const one = rig({});
  one.state.errorThread = one.guest.thread.index;
  one.guest.disk.error = "EIO";
  for (let count = 0; count < 100; count++) run(one, { type: 4 });
  const before = one.guest.thread.snapshot();
  const first = one.state.takeIoErrors();
  expect(first.map(({ missed }) => missed)).toEqual(new Array(8).fill(0));
  run(one, { type: 4 });
  expect(one.guest.thread.snapshot()).not.toBe(before);
  expect(one.state.takeIoErrors().map(({ missed }) => missed)).toEqual([92]);
});
