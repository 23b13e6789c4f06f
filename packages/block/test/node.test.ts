import { type BlockError, type Co, join, SeededRandom, sleep, until } from "@spindle/base";
import { LockKind } from "@spindle/shared-memory";
import { describe, expect, it } from "vitest";
import { IoVector } from "../src/index.ts";
import { MappingCache, type Place } from "../src/mapping-cache.ts";
import { clock, OneThread } from "./one-thread.ts";

const LENGTH = 64 * 1024;
const UNIT = 4096;

describe("a node", () => {
  it.each([1, 512, 4096])("keeps every byte when its driver takes only multiples of %d", (alignment) => {
    const one = new OneThread();
    const { node } = one.node(LENGTH, { alignment });
    const random = new SeededRandom(alignment);
    const model = new Uint8Array(LENGTH);
    for (let round = 0; round < 400; round++) {
      const offset = random.below(LENGTH);
      const length = random.below(Math.min(9_000, LENGTH - offset)) + 1;
      if (random.chance(0.7)) {
        const bytes = Uint8Array.from({ length }, () => random.u32());
        one.run(node.write(offset, new IoVector([bytes.subarray(0, 3), bytes.subarray(3)])));
        model.set(bytes, offset);
      } else {
        one.run(node.writeZeroes(offset, length));
        model.fill(0, offset, offset + length);
      }
      expect(one.read(node, offset, length)).toEqual(model.slice(offset, offset + length));
    }
    expect(one.read(node, 0, LENGTH)).toEqual(model);
  });

  it("discards only whole units and leaves the rest", () => {
    const one = new OneThread();
    const { node, driver } = one.node(LENGTH, { alignment: 512 });
    one.run(node.discard(100, 2_000));
    one.run(node.discard(10, 100));
    expect(driver.requests).toEqual(["discard 512 1536"]);
  });

  it.each([
    ["beyond the end", LENGTH - 1, 2],
    ["before the start", -1, 1],
    ["at a fraction", 0.5, 1],
    ["above 2^53", 2 ** 53, 1],
  ])("refuses a request %s with EINVAL", (_where, offset, length) => {
    const one = new OneThread();
    const { node } = one.node(LENGTH);
    const vector = IoVector.of(new Uint8Array(length));
    for (const co of [node.read(offset, vector), node.write(offset, vector), node.discard(offset, length)])
      expect(() => one.run(co)).toThrow(expect.objectContaining({ code: "EINVAL" }));
  });

  it("refuses writes when it is read-only, with QEMU's text", () => {
    const one = new OneThread();
    const { node } = one.node(LENGTH, { readOnly: true });
    for (const co of [
      node.write(0, IoVector.of(new Uint8Array(1))),
      node.discard(0, 1),
      node.writeZeroes(0, 1),
      node.truncate(0),
    ])
      expect(() => one.run(co)).toThrow("Block node is read-only");
  });

  it("lets a guest's write wait for a copy of the same clusters, and only for that", () => {
    const one = new OneThread();
    const { node } = one.node(LENGTH, { alignment: 4096 });
    const log: string[] = [];
    function* copy(): Co<void> {
      const range = yield* node.track(LockKind.copy, 0, 8192);
      yield* until(() => log.includes("write elsewhere") && log.includes("read the same"));
      yield* sleep(clock, 2);
      log.push("copy ends");
      range.release();
    }
    function* request(name: string, co: Co<void>): Co<void> {
      yield* co;
      log.push(name);
    }
    const page = () => IoVector.of(new Uint8Array(4096));
    one.run(
      join<void>([
        copy(),
        request("write the same", node.write(4096, page())),
        request("write elsewhere", node.write(8192, page())),
        request("read the same", node.read(0, page())),
      ]),
    );
    expect(log).toEqual(["write elsewhere", "read the same", "copy ends", "write the same"]);
    expect(node.requestsInFlight).toBe(0);
  });

  it("runs a change alone: it waits for what is in flight, and holds back what comes", () => {
    const one = new OneThread();
    const { node } = one.node(LENGTH);
    const log: string[] = [];
    function* slowRead(): Co<void> {
      const range = yield* node.track(LockKind.read, 0, 512);
      yield* sleep(clock, 3);
      log.push("read");
      range.release();
    }
    function* change(): Co<void> {
      yield* node.exclusively(function* () {
        log.push("change begins");
        yield* sleep(clock, 3);
        log.push("change ends");
      });
    }
    function* lateRead(): Co<void> {
      yield* node.read(4096, IoVector.of(new Uint8Array(1)));
      log.push("late read");
    }
    one.run(join([slowRead(), change(), lateRead()]));
    expect(log).toEqual(["read", "change begins", "change ends", "late read"]);
  });
});

describe("a node that changes its length", () => {
  it("tells it before any request goes on, and refuses what has waited and is beyond the end now", () => {
    const one = new OneThread();
    const { node } = one.node(LENGTH, { alignment: 512 });
    const log: string[] = [];
    const forget = node.onLength((length) => log.push(`length ${length}`));
    function* outcome(name: string, request: Co<void>): Co<void> {
      try {
        yield* request;
        log.push(`${name} is done`);
      } catch (error) {
        log.push(`${name} is refused: ${(error as BlockError).code}`);
      }
    }
    function* letGo(): Co<void> {
      yield* sleep(clock, 2);
      held.release();
    }
    const vector = IoVector.of(new Uint8Array(512));
    const held = one.run(node.track(LockKind.write, 0, 512));
    const beyond = LENGTH - 512;
    one.run(
      join<void>([
        node.truncate(4096),
        outcome("read", node.read(beyond, vector)),
        outcome("write", node.write(beyond, vector)),
        outcome("zeroes", node.writeZeroes(beyond, 512)),
        outcome("discard", node.discard(beyond, 512)),
        outcome("read inside", node.read(0, vector)),
        letGo(),
      ]),
    );
    expect(log[0]).toBe("length 4096");
    const outcomes = ["read", "write", "zeroes", "discard"].map((name) => `${name} is refused: EINVAL`);
    expect(log.slice(1).sort()).toEqual([...outcomes, "read inside is done"].sort());
    log.length = 0;
    one.run(node.truncate(4096));
    forget();
    one.run(node.truncate(8192));
    expect(log).toEqual([]);
  });
});

describe("a node whose clusters stand in a mapping cache", () => {
  it.each([
    ["exclusiveWrite", LockKind.exclusiveWrite],
    ["copy", LockKind.copy],
  ])("forgets their places before a request of kind %s can free them", (_name, kind) => {
    const one = new OneThread();
    const { node } = one.node(LENGTH, { alignment: UNIT });
    const cache = new MappingCache(MappingCache.create(UNIT));
    const place: Place = { descriptor: 1, hostOffset: 0, writable: true };
    node.mappingCache = cache;
    for (const unitIndex of [0, 1, 2]) cache.set(unitIndex, place);
    const range = one.run(node.track(kind, UNIT, UNIT));
    expect([0, 1, 2].map((unitIndex) => cache.find(unitIndex, { ...place }))).toEqual([true, false, true]);
    range.release();
  });

  it("forgets all places before the chain is changed", () => {
    const one = new OneThread();
    const { node } = one.node(LENGTH, { alignment: UNIT });
    const cache = new MappingCache(MappingCache.create(UNIT));
    const place: Place = { descriptor: 1, hostOffset: 0, writable: true };
    node.mappingCache = cache;
    cache.set(3, place);
    one.run(
      node.exclusively(function* () {
        expect(cache.find(3, { ...place })).toBe(false);
      }),
    );
  });
});
