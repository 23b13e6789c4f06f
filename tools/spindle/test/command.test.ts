import { BlockError } from "@spindle/base";
import { describe, expect, it } from "vitest";
import { defineCommand, numberOption, sizeOption } from "../src/command.ts";
import { sizeArgument } from "../src/size-text.ts";

const OPTIONS = {
  "all-of-it": { help: "all" },
  format: { short: "f", value: "FORMAT", help: "the format" },
  allow: { value: "FOLDER", many: true, help: "allow" },
  output: { value: "human|json", oneOf: ["human", "json"], help: "how" },
  quiet: { short: "q", help: "print nothing" },
} as const;

function parsed(...argv: string[]): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const command = defineCommand({
      name: "test",
      operands: "FILE",
      operandCount: { least: 1, most: 2, otherwise: "one or two files" },
      about: "Tests.",
      options: OPTIONS,
      async run(values, operands) {
        resolve({ ...values, operands });
        return 0;
      },
    });
    command.run(argv).catch(reject);
  });
}

describe("a command's words", () => {
  it("may come in any order, short, long, joined and many times", async () => {
    const expected = {
      "all-of-it": false,
      format: "raw",
      allow: ["x", "y"],
      output: "json",
      quiet: true,
      operands: ["a", "b"],
    };
    expect(await parsed("a", "-qf", "raw", "--allow", "x", "b", "--output=json", "--allow=y")).toEqual(expected);
    expect(await parsed("-fraw", "-q", "--allow=x", "--allow=y", "--output", "json", "--", "a", "b")).toEqual(expected);
  });

  it("may be shortened as far as they are clear", async () => {
    expect(await parsed("--form", "raw", "--q", "a", "--out=json")).toMatchObject({
      format: "raw",
      quiet: true,
      output: "json",
      operands: ["a"],
    });
    // Behind the double dash there are operands only.
    expect(await parsed("--", "--form", "a")).toMatchObject({ format: undefined, operands: ["--form", "a"] });
  });

  it("take the next word for their value, even one that begins with a dash", async () => {
    expect(await parsed("--format", "-q", "a")).toMatchObject({ format: "-q", quiet: false, operands: ["a"] });
    expect(await parsed("-f", "--", "a", "b")).toMatchObject({ format: "--", operands: ["a", "b"] });
  });

  it("may leave every option out", async () => {
    const expected = {
      "all-of-it": false,
      format: undefined,
      allow: [],
      output: undefined,
      quiet: false,
      operands: ["a"],
    };
    expect(await parsed("a")).toEqual(expected);
  });

  it.each([
    [["--nonsense", "a"], /unrecognized option '--nonsense'$/],
    [["-z", "a"], /unrecognized option '-z'$/],
    [["a", "-f"], /option .*-f.* argument missing/],
    [["--quiet=yes", "a"], /option .*quiet/],
    [["--output=xml", "a"], /--output must be used with human or json as argument/],
    [["--al", "a"], /option '--al' is ambiguous; possibilities: '--all-of-it' '--allow'/],
    [[], /one or two files/],
    [["a", "b", "c"], /one or two files/],
  ])("are refused in one line: %j", async (argv, reason) => {
    const failed = parsed(...argv);
    await expect(failed).rejects.toBeInstanceOf(BlockError);
    await expect(failed).rejects.toThrow(reason);
    await expect(failed).rejects.not.toThrow(/\n/);
  });
});

describe("numbers among the options", () => {
  it("are whole numbers in a range, or sizes", () => {
    expect(numberOption("count", "12", 0, 12)).toBe(12);
    expect(numberOption("count", undefined, 0, 12)).toBeUndefined();
    for (const bad of ["13", "-1", "1.5", "", "1e1", "x"])
      expect(() => numberOption("count", bad, 0, 12)).toThrow(/Invalid count/);
    expect(sizeOption("chunk", "1.5k")).toBe(1536);
    expect(sizeOption("chunk", undefined)).toBeUndefined();
    expect(() => sizeOption("chunk", "12x")).toThrow(/^Invalid chunk '12x': /);
    expect(sizeArgument("chunk", "1.5k")).toBe(1536);
    expect(() => sizeArgument("chunk", "12x")).toThrow(/^Invalid chunk specified\. You may use k, M, G, T, P or E /);
    expect(() => sizeArgument("chunk", "16E")).toThrow(
      /^Invalid chunk specified\. Must be between 0 and 9223372036854775807\.$/,
    );
  });
});
