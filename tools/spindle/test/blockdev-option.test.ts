import { driverRegistry } from "spindle";
import { describe, expect, it } from "vitest";
import { parseBlockdev } from "../src/blockdev-option.ts";
import { parsePairs } from "../src/key-value.ts";

const parse = (text: string): unknown => parseBlockdev(text, driverRegistry());

describe("--blockdev", () => {
  it("takes JSON as it is", () => {
    const options = { driver: "qcow2", "node-name": "a", file: { driver: "file", filename: "a,b" }, backing: null };
    expect(parse(` ${JSON.stringify(options)}`)).toEqual(options);
  });

  it("takes QEMU's keys and values, and gives each the type that its driver wants", () => {
    expect(
      parse(
        "driver=delay,node-name=slow,read-ms=20,read-only=on,file.driver=raw,file.file.driver=file,file.file.filename=a,,b=c",
      ),
    ).toEqual({
      driver: "delay",
      "node-name": "slow",
      "read-ms": 20,
      "read-only": true,
      file: { driver: "raw", file: { driver: "file", filename: "a,b=c" } },
    });
  });

  it("makes lists of numbered keys, and nothing of an empty backing", () => {
    expect(
      parse("driver=fault,file=a,rules.0.operation=read,rules.0.once=on,rules.1.operation=write,rules.1.offset=512"),
    ).toEqual({
      driver: "fault",
      file: "a",
      rules: [
        { operation: "read", once: true },
        { operation: "write", offset: 512 },
      ],
    });
    expect(parse("driver=qcow2,file=a,backing=")).toEqual({ driver: "qcow2", file: "a", backing: null });
  });

  it("takes an option as a text and as an object at once only where it can be either", () => {
    for (const text of [
      "overlap-check=all,overlap-check.template=none",
      "overlap-check.template=none,overlap-check=all",
    ])
      expect(parse(`driver=qcow2,${text}`)).toMatchObject({ "overlap-check": { "": "all", template: "none" } });
    for (const text of ["encrypt=a,encrypt.format=luks", "encrypt.a.b=1,encrypt.a=2"])
      expect(() => parse(`driver=qcow2,${text}`)).toThrow("has a value, and others are below it");
  });

  it("leaves what it does not know for the driver to refuse", () => {
    expect(parse("driver=nonsense,x=1")).toEqual({ driver: "nonsense", x: "1" });
    expect(parse("driver=file,filename=7,__proto__.x=1")).toEqual({
      driver: "file",
      filename: "7",
      ["__proto__"]: { x: 1 },
    });
    expect(({} as Record<string, unknown>)["x"]).toBeUndefined();
  });

  it.each([
    "{",
    "driver",
    "=x",
    "driver=file,",
    "driver=delay,file=a,read-ms=soon",
    "driver=qcow2,read-only=perhaps",
    "file=a,file.driver=raw",
    "file.driver=raw,file=a",
    "file.=a",
  ])("refuses %s", (text) => {
    expect(() => parse(text)).toThrow();
  });
});

describe("key=value lists", () => {
  it("are split at single commas", () => {
    expect(parsePairs("a=1,b=x,,y,c=")).toEqual([
      ["a", "1"],
      ["b", "x,y"],
      ["c", ""],
    ]);
    expect(parsePairs("a==,,,b=2")).toEqual([
      ["a", "=,"],
      ["b", "2"],
    ]);
  });
});
