import { sharingCalls } from "@spindle/host-node";
import { afterEach, describe, expect, it } from "vitest";
import { InflightLog } from "../src/inflight-log.ts";
import { InflightRegion, inflightBytes } from "../src/inflight-region.ts";

const calls = sharingCalls();
const SIZE = 8;
const cleanups: (() => void)[] = [];
afterEach(() => {
  for (const clean of cleanups.splice(0)) clean();
});

/** Memory as a front end keeps it, and the log of one back end after the other. */
function keptMemory(queue = 0): () => InflightLog {
  const length = inflightBytes(2, SIZE);
  const fd = calls.createMemoryFile("kept", length);
  const region = new InflightRegion(fd, { length, offset: 0, queues: 2, size: SIZE });
  calls.close(fd);
  cleanups.push(() => region.unmap());
  return () => {
    const place = region.place(queue, SIZE);
    if (place === undefined) throw new Error("there is no such queue");
    return new InflightLog(place);
  };
}

describe("the log of requests in flight", () => {
  it("is new, then empty, and tells what was taken in the order in which it was", () => {
    const open = keptMemory(1);
    const log = open();
    expect(log.recover(0)).toBeUndefined();
    expect(open().recover(0)).toEqual([]);
    for (const head of [5, 2, 7]) log.taken(head);
    expect(open().recover(0)).toEqual([5, 2, 7]);
    log.giving(2);
    log.given(1);
    expect(open().recover(1)).toEqual([5, 7]);
  });

  it("counts on over restarts", () => {
    const open = keptMemory();
    const first = open();
    first.recover(0);
    first.taken(3);
    const second = open();
    second.continue(second.recover(0) ?? []);
    second.taken(1);
    expect(open().recover(0)).toEqual([3, 1]);
  });

  it.each([
    ["before the driver sees it: everything is done once more", 65_535, [4, 6, 1]],
    ["after the driver has seen it: only what is left is done once more", 1, [1]],
  ])("knows what a death leaves in the middle of a batch, %s", (_name, usedIndex, left) => {
    const open = keptMemory();
    const log = open();
    log.recover(65_535);
    for (const head of [4, 6, 1]) log.taken(head);
    log.giving(6);
    log.giving(4);
    // The back end dies before or after the used index moves by two, and before `given`.
    expect(open().recover(usedIndex)).toEqual(left);
    expect(open().recover(usedIndex)).toEqual(left);
  });

  it("begins anew for a ring of another size", () => {
    const open = keptMemory();
    const log = open();
    log.recover(0);
    log.taken(1);
    const length = inflightBytes(1, 4);
    const fd = calls.createMemoryFile("other", length);
    const region = new InflightRegion(fd, { length, offset: 0, queues: 1, size: 4 });
    calls.close(fd);
    cleanups.push(() => region.unmap());
    expect(region.place(0, 8)).toBeUndefined();
    expect(region.place(1, 4)).toBeUndefined();
  });

  it.each([
    ["too short for its queues", { length: 128, offset: 0, queues: 2, size: 8 }],
    ["beyond the end of the file", { length: 4096, offset: 4096, queues: 2, size: 8 }],
    ["at an odd place", { length: 2048, offset: 100, queues: 2, size: 8 }],
    ["for no queue", { length: 4096, offset: 0, queues: 0, size: 8 }],
    ["for no entry", { length: 4096, offset: 0, queues: 2, size: 0 }],
  ])("takes no memory %s", (_name, description) => {
    const fd = calls.createMemoryFile("kept", 4096);
    expect(() => new InflightRegion(fd, description)).toThrow(expect.objectContaining({ code: "EINVAL" }));
    calls.close(fd);
  });

  it("survives whatever the front end writes into it", () => {
    const length = inflightBytes(1, SIZE);
    for (let round = 0; round < 200; round++) {
      const fd = calls.createMemoryFile("kept", length);
      const region = new InflightRegion(fd, { length, offset: 0, queues: 1, size: SIZE });
      calls.close(fd);
      const place = region.place(0, SIZE);
      if (place === undefined) throw new Error("there is no such queue");
      const bytes = new Uint8Array(calls.view(place.address, 144));
      for (let at = 0; at < bytes.length; at++) bytes[at] = (round * 31 + at * 17 + ((at * round) >> 3)) & 0xff;
      bytes.set([1, 0, SIZE, 0], 8);
      const left = new InflightLog(place).recover(round) ?? [];
      expect(left.length).toBeLessThanOrEqual(SIZE);
      expect(left.every((head) => head < SIZE)).toBe(true);
      region.unmap();
    }
  });
});
