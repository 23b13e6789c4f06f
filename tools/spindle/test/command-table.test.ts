import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { COMMANDS } from "../src/command-table.ts";
import { VERSION } from "../src/version.ts";

describe("the commands", () => {
  it.each(Object.keys(COMMANDS))("%s has a help that fits a terminal", async (name) => {
    const command = await COMMANDS[name]?.load();
    const usage = command?.usage(`spindle ${name}`) ?? "";
    expect(usage.startsWith(`Usage: spindle ${name} [options]`)).toBe(true);
    expect(usage.endsWith("\n")).toBe(true);
    for (const line of usage.split("\n")) expect(line.length, line).toBeLessThanOrEqual(120);
  });

  it("have the version of the manifest", () => {
    const manifest = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")) as {
      version: string;
    };
    expect(VERSION).toBe(manifest.version);
  });
});
