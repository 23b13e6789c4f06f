import { type Co, join } from "@spindle/base";
import { describe, expect, it } from "vitest";
import { type BlockNode, IoVector } from "../src/index.ts";
import { clock, OneThread } from "./one-thread.ts";

const LENGTH = 1024 * 1024;

function open(options: Record<string, unknown>): { one: OneThread; node: BlockNode } {
  const one = new OneThread();
  one.files.put("disk", LENGTH);
  const node = one.run(one.graph.open({ "node-name": "n", ...options, file: { driver: "file", filename: "disk" } }));
  return { one, node };
}

const page = (value = 0) => IoVector.of(new Uint8Array(4096).fill(value));

describe("filter delay", () => {
  it("makes each request slower, and many of them side by side no slower than one", () => {
    const { one, node } = open({ driver: "delay", "read-ms": 20 });
    const begin = clock.now();
    one.run(join<void>(Array.from({ length: 32 }, (_, index) => node.read(index * 4096, page()))));
    const taken = clock.now() - begin;
    expect(taken).toBeGreaterThanOrEqual(20);
    expect(taken).toBeLessThan(32 * 20);
  });

  it("passes the bytes through", () => {
    const { one, node } = open({ driver: "delay", "write-ms": 1 });
    one.run(node.write(4096, page(7)));
    expect(one.read(node, 4096, 1)[0]).toBe(7);
    expect(one.files.content("disk").length).toBe(LENGTH);
  });

  it("refuses a negative delay with QEMU's text", () => {
    expect(() => open({ driver: "delay", "read-ms": -1 })).toThrow("Parameter 'read-ms' expects a non-negative value");
  });
});

describe("filter throttle", () => {
  it("keeps bytes per second below the limit", () => {
    const { one, node } = open({ driver: "throttle", "bps-total": 1_000_000 });
    const begin = clock.now();
    for (let index = 0; index < 50; index++) one.run(node.read(0, page()));
    // 204,800 bytes take 205 ms, of which 100 ms may have been saved up.
    expect(clock.now() - begin).toBeGreaterThan(95);
  });

  it("keeps requests per second below the limit, for writes alone when told so", () => {
    const { one, node } = open({ driver: "throttle", "iops-write": 100 });
    const begin = clock.now();
    for (let index = 0; index < 30; index++) one.run(node.write(0, page()));
    expect(clock.now() - begin).toBeGreaterThan(180);
    const reads = clock.now();
    for (let index = 0; index < 1_000; index++) one.run(node.read(0, page()));
    expect(clock.now() - reads).toBeLessThan(5_000);
  });
});

describe("filter fault", () => {
  it("fails the requests that a rule names, after the number that it lets pass, once when told so", () => {
    const rules = [{ operation: "write", errno: "ENOSPC", after: 1, once: true }];
    const { one, node } = open({ driver: "fault", rules });
    one.run(node.write(0, page(1)));
    expect(() => one.run(node.write(0, page(2)))).toThrow(expect.objectContaining({ code: "ENOSPC" }));
    one.run(node.write(0, page(3)));
    expect(one.read(node, 0, 1)[0]).toBe(3);
  });

  it("fails only requests that touch the rule's range", () => {
    const { one, node } = open({ driver: "fault", rules: [{ operation: "read", offset: 8192, length: 512 }] });
    one.run(node.read(4096, page()));
    expect(() => one.run(node.read(8000, IoVector.of(new Uint8Array(193))))).toThrow("injected EIO on read");
  });

  it.each([
    [{ operation: "reed" }, "operation is one of"],
    [{ operation: "read", errno: "EWHAT" }, "errno is one of"],
    [{ operation: "read", sector: 1 }, "Parameter 'sector' is unexpected"],
    [{ operation: "read", offset: -1 }, "are numbers"],
    ["read", "a rule is an object"],
  ])("refuses the rule %j", (rule, text) => {
    expect(() => open({ driver: "fault", rules: [rule] })).toThrow(text);
  });
});

describe("a filter", () => {
  it("does not tell where the data below it stands, so that nobody goes around it", () => {
    const { one, node } = open({ driver: "delay" });
    one.run(node.write(0, page(1)));
    function* status(): Co<unknown> {
      return (yield* node.blockStatus(0, 4096)).hostOffset;
    }
    expect(one.run(status())).toBeUndefined();
  });
});
