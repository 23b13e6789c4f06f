import { describe, expect, it } from "vitest";
import { OneThread } from "./one-thread.ts";

const delay = (name: string, file: unknown) => ({ driver: "delay", "node-name": name, file });

describe("a graph", () => {
  it("opens a node by options, lists it, and closes what only it used when it is removed", () => {
    const one = new OneThread();
    one.files.put("a", 512);
    one.run(one.graph.open(delay("top", { driver: "file", "node-name": "below", filename: "a" })));
    expect(one.graph.nodes().map((node) => node.name)).toEqual(["top", "below"]);
    expect(() => one.run(one.graph.remove("below"))).toThrow("Node below is not owned by the monitor");
    one.run(one.graph.remove("top"));
    expect(one.graph.nodes()).toEqual([]);
  });

  it("keeps a node that was opened by name when the node above it goes, and does not remove it before", () => {
    const one = new OneThread();
    one.files.put("a", 512);
    one.run(one.graph.open({ driver: "file", "node-name": "below", filename: "a" }));
    one.run(one.graph.open(delay("top", "below")));
    expect(() => one.run(one.graph.remove("below"))).toThrow("Block device below is in use");
    one.run(one.graph.remove("top"));
    one.run(one.graph.remove("below"));
    expect(one.graph.nodes()).toEqual([]);
  });

  it.each([
    [{ driver: "nothing" }, "Parameter 'driver' does not accept value 'nothing'"],
    [{}, "Parameter 'driver' is missing"],
    [{ driver: 5 }, "Invalid parameter type for 'driver', expected: string"],
    [{ driver: "delay" }, "Parameter 'file' is missing"],
    [{ driver: "delay", file: "missing" }, "Cannot find device='missing' nor node-name='missing'"],
    [{ driver: "delay", file: { driver: "file", filename: "a" }, bogus: 1 }, "Parameter 'bogus' is unexpected"],
    [{ driver: "file", filename: "a", backing: null }, "Parameter 'backing' is unexpected"],
    [{ driver: "file", filename: "a", "node-name": "0" }, "Invalid node-name: '0'"],
    [{ driver: "file", filename: 7 }, "Invalid parameter type for 'filename', expected: string"],
    [
      { driver: "file", filename: "a", "read-only": "yes" },
      "Invalid parameter type for 'read-only', expected: boolean",
    ],
    [{ driver: "delay", "read-ms": -1, file: { driver: "file", filename: "a" } }, "expects a non-negative value"],
    [{ driver: "file", filename: "no such file" }, "No such file"],
  ])("refuses %j and leaves nothing open", (options, text) => {
    const one = new OneThread();
    one.files.put("a", 512);
    expect(() => one.run(one.graph.open(options))).toThrow(text);
    expect(one.graph.nodes()).toEqual([]);
  });

  it("refuses a name that is taken and a node that a job uses", () => {
    const one = new OneThread();
    one.files.put("a", 512);
    const node = one.run(one.graph.open({ driver: "file", "node-name": "n", filename: "a" }));
    expect(() => one.run(one.graph.open({ driver: "file", "node-name": "n", filename: "a" }))).toThrow(
      "Duplicate nodes with node-name='n'",
    );
    node.busyReason = "block device is in use by block job: stream";
    expect(() => one.run(one.graph.remove("n"))).toThrow(
      "Node 'n' is busy: block device is in use by block job: stream",
    );
  });

  it("is not fooled by options that are named like parts of every object", () => {
    const one = new OneThread();
    one.files.put("a", 512);
    const options = JSON.parse('{"driver": "file", "filename": "a", "__proto__": {"x": 1}}');
    expect(() => one.run(one.graph.open(options))).toThrow("Parameter '__proto__' is unexpected");
  });
});
