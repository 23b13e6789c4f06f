import { type Co, isBlockError, join } from "@spindle/base";
import { describe, expect, it } from "vitest";
import { type BlockNode, IoVector } from "../src/index.ts";
import { type AlignedDriver, OneThread } from "./one-thread.ts";

const LENGTH = 1024 * 1024;

function open(options: Record<string, unknown>, rules = ""): { one: OneThread; node: BlockNode } {
  const one = new OneThread();
  one.files.put("disk", LENGTH);
  one.files.put("rules", new TextEncoder().encode(rules));
  const image = { driver: "file", filename: "disk" };
  return { one, node: one.run(one.graph.open({ driver: "blkdebug", ...options, image })) };
}

const sector = () => IoVector.of(new Uint8Array(512));

/** The code of the error with which a request ends. */
function outcome(one: OneThread, request: Co<void>): string {
  try {
    one.run(request);
    return "ok";
  } catch (error) {
    if (!isBlockError(error)) throw error;
    return error.code;
  }
}

describe("filter blkdebug", () => {
  it("fails requests from an event on, of the kinds and at the place that a rule names", () => {
    const rule = { event: "l2_load", iotype: "read", sector: 2, errno: 28 };
    const { one, node } = open({ "inject-error": [rule] });
    expect(outcome(one, node.read(1024, sector()))).toBe("ok");
    one.run(node.tell("l2_load"));
    expect(outcome(one, node.read(1024, sector()))).toBe("ENOSPC");
    expect(outcome(one, node.read(512, sector()))).toBe("ok");
    expect(outcome(one, node.write(1024, sector()))).toBe("ok");
    expect(outcome(one, node.read(0, IoVector.of(new Uint8Array(4096))))).toBe("ENOSPC");
  });

  it("lets a rule count once when it says so", () => {
    const { one, node } = open({ "inject-error": { event: "none", once: true } });
    expect(outcome(one, node.write(0, sector()))).toBe("EIO");
    expect(outcome(one, node.write(0, sector()))).toBe("ok");
  });

  it("moves from state to state as a file of rules tells", () => {
    const rules = `
      # the second write and all behind it fail
      [set-state]
      event = "write_aio"
      state = "1"
      new_state = "2"
      [inject-error]
      event = "write_aio"
      state = "2"
    `;
    const { one, node } = open({ config: "rules" }, rules);
    const codes = [1, 2, 3].map(() => {
      one.run(node.tell("write_aio"));
      return outcome(one, node.write(0, sector()));
    });
    expect(codes).toEqual(["ok", "EIO", "EIO"]);
  });

  it("says what is wrong with rules", () => {
    const refused = (text: string): unknown => {
      try {
        return open({ config: "rules" }, text) && "taken";
      } catch (error) {
        return (error as Error).message;
      }
    };
    expect(refused('[inject-error]\nerrno = "5"')).toBe("Missing event name for rule");
    expect(refused('[inject-error]\nevent = "x"')).toBe("invalid parameter value: x");
    expect(refused('[inject-error]\nevent = "none"\nfoo = "1"')).toBe("Invalid parameter 'foo'");
    expect(refused("[nonsense]")).toBe("There is no option group 'nonsense'");
    expect(refused('event = "none"')).toBe("no group defined");
    expect(refused("[inject-error]\nevent")).toBe("blkdebug config, line 2: parse error");
  });

  it("cannot fail a flush of nothing", () => {
    const { one, node } = open({ "inject-error": { event: "none", iotype: "flush" } });
    expect(outcome(one, node.flush())).toBe("ok");
    one.run(node.write(0, sector()));
    expect(outcome(one, node.flush())).toBe("EIO");
  });

  it("stops one request at a breakpoint, until it is told to go on", () => {
    const { one, node } = open({});
    const seen: string[] = [];
    const listener = {
      stopped: (tag: string) => seen.push(`stop ${tag}`),
      resumed: (tag: string) => seen.push(`go ${tag}`),
    };
    node.driver.breakpoints?.set("pwritev", "A", listener);
    function* first(): Co<void> {
      yield* node.write(0, sector());
      seen.push("first");
    }
    function* second(): Co<void> {
      yield* node.write(4096, sector());
      seen.push("second");
      expect(node.driver.breakpoints?.isSuspended("A")).toBe(true);
      expect(node.driver.breakpoints?.resume("A")).toBe(true);
    }
    one.run(join([first(), second()]));
    expect(seen).toEqual(["stop A", "second", "go A", "first"]);
    expect(node.driver.breakpoints?.resume("A")).toBe(false);
  });

  it("cuts requests to its limits, and writes the zeros that it cannot make", () => {
    const one = new OneThread();
    const disk = one.node(LENGTH);
    const driver = disk.driver as AlignedDriver;
    one.graph.adopt(disk.node);
    const options = { align: 512, "max-transfer": 4096, "opt-write-zero": 3072, "max-write-zero": 6144 };
    const node = one.run(one.graph.open({ driver: "blkdebug", ...options, image: "disk" }));
    one.run(node.write(1024, IoVector.of(new Uint8Array(10240))));
    expect(driver.requests.splice(0)).toEqual(["write 1024 4096", "write 5120 4096", "write 9216 2048"]);
    one.run(node.writeZeroes(2048, 20480));
    expect(driver.requests.splice(0)).toEqual([
      "write 2048 1024",
      "write-zeroes 3072 6144",
      "write-zeroes 9216 6144",
      "write-zeroes 15360 6144",
      "write 21504 1024",
    ]);
  });
});
