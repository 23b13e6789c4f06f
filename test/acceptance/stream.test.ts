/** `spindle stream` as a user meets it: progress for people and for programs, interruption, limits, and a base that stays. */
import { spawnSync } from "node:child_process";
import { closeSync, ftruncateSync, openSync, readFileSync, readSync, writeFileSync, writeSync } from "node:fs";
import { MiB } from "@spindle/base";
import { peer } from "@spindle/testkit/peers";
import { beforeEach, describe, expect, test } from "vitest";
import { type Outcome, type RunOptions, Scratch, spindle } from "./program.ts";

const qemuImg = peer("qemu-img");
const BASE_BYTES: number = 24 * MiB;

interface Line {
  readonly type: string;
  readonly transferred: number;
  readonly size: number;
  readonly elapsed: number;
  readonly rate: number;
  readonly eta: number | null;
  readonly outcome?: string;
}

function jsonLines({ stdout }: Outcome): Line[] {
  return stdout
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Line);
}

describe.skipIf(qemuImg === undefined)("stream", () => {
  let scratch: Scratch;
  beforeEach(() => {
    scratch = new Scratch();
    writeFileSync(scratch.path("base.raw"), Buffer.alloc(BASE_BYTES, "a base image's content"));
    img("create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "top.qcow2", "32M");
    return () => scratch[Symbol.dispose]();
  });
  const img = (...argv: string[]): string => scratch.tool(qemuImg as string, ...argv);
  const stream = (argv: readonly string[], options: Partial<RunOptions> = {}): Promise<Outcome> =>
    spindle(["stream", ...argv], { cwd: scratch.folder, ...options });

  test("fills the image, drops the chain and leaves the base as it was", async () => {
    const before = readFileSync(scratch.path("base.raw"));
    expect(await stream(["top.qcow2"])).toEqual({ code: 0, stdout: "", stderr: "" });
    expect(readFileSync(scratch.path("base.raw")).equals(before)).toBe(true);
    expect(img("info", "top.qcow2")).not.toContain("backing file");
    img("check", "top.qcow2");
    img("compare", "top.qcow2", "base.raw");
    // There is nothing left to do, which is no failure.
    expect((await stream(["top.qcow2"])).code).toBe(0);
  });

  test("tells programs of its progress, one object a line, never going back", async () => {
    const outcome = await stream(["--progress=json", "--speed", "40M", "--chunk", "256k", "top.qcow2"]);
    const lines = jsonLines(outcome);
    const keys = ["type", "transferred", "size", "elapsed", "rate", "eta"];
    expect(lines.length).toBeGreaterThan(3);
    for (const line of lines.slice(0, -1)) {
      expect(Object.keys(line)).toEqual(keys);
      expect(line.type).toBe("progress");
    }
    const result = lines.at(-1) as Line;
    expect(Object.keys(result)).toEqual([...keys, "outcome"]);
    expect(result).toMatchObject({
      type: "result",
      outcome: "completed",
      transferred: 32 * MiB,
      size: 32 * MiB,
      eta: 0,
    });
    lines.reduce((last, line) => {
      expect(line.transferred).toBeGreaterThanOrEqual(last.transferred);
      expect(line.elapsed).toBeGreaterThanOrEqual(last.elapsed);
      return line;
    });
    // 24 MiB at 40 MiB/s, less the first slice.
    expect(result.elapsed).toBeGreaterThan(0.4);
  });

  test("tells people of its progress in plain lines where there is no terminal", async () => {
    const { stdout, code } = await stream(["-p", "top.qcow2"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(
      /^(\d+\.\d% {2}.* of 32 MiB {2}.*\/s {2}eta [\d:-]+\n)+completed: 32 MiB in \d+\.\d s, .*\/s\n$/,
    );
  });

  test.each([
    ["SIGINT", 130],
    ["SIGTERM", 143],
  ] as const)("%s cancels cleanly, and another stream goes on", async (signal, code) => {
    const interrupt: RunOptions["started"] = (child) => {
      child.stdout?.once("data", () => setTimeout(() => child.kill(signal), 300));
    };
    const argv = ["--progress=json", "--speed", "8M", "top.qcow2"];
    const cut = await stream(argv, { started: interrupt });
    expect(cut.code).toBe(code);
    expect(cut.stderr).toMatch(/^spindle: interrupted; .*\n$/);
    expect(jsonLines(cut).at(-1)).toMatchObject({ type: "result", outcome: "cancelled" });
    expect(img("check", "top.qcow2")).toContain("No errors");
    expect(img("info", "top.qcow2")).toContain("backing file: base.raw");
    img("compare", "top.qcow2", "base.raw");
    const copied = JSON.parse(img("map", "--output=json", "top.qcow2")) as { depth: number; data: boolean }[];
    expect(copied.some(({ depth, data }) => depth === 0 && data)).toBe(true);

    expect((await stream(["top.qcow2"])).code).toBe(0);
    expect(img("check", "top.qcow2")).toContain("No errors");
    img("compare", "top.qcow2", "base.raw");
  });

  test("keeps the chain from --base on", async () => {
    img("create", "-q", "-f", "qcow2", "-b", "top.qcow2", "-F", "qcow2", "guest.qcow2");
    img("create", "-q", "-f", "qcow2", "-b", "guest.qcow2", "-F", "qcow2", "last.qcow2");
    expect(await stream(["--base", "top.qcow2", "last.qcow2"])).toMatchObject({ code: 0, stderr: "" });
    const info = JSON.parse(img("info", "--output=json", "last.qcow2")) as Record<string, unknown>;
    expect(info).toMatchObject({ "backing-filename": "top.qcow2", "backing-filename-format": "qcow2" });
    expect(await stream(["--base", "missing.qcow2", "last.qcow2"])).toMatchObject({
      code: 1,
      stderr: "spindle: Can't find 'missing.qcow2' in the backing chain\n",
    });
    img("compare", "last.qcow2", "base.raw");
    img("check", "last.qcow2");
  });

  test("gives back what an earlier crash has leaked", async () => {
    // A cluster that is counted and to which nothing refers, as a program leaves it that was killed.
    const fd = openSync(scratch.path("top.qcow2"), "r+");
    const pointer = Buffer.alloc(8);
    readSync(fd, pointer, 0, 8, 48);
    readSync(fd, pointer, 0, 8, Number(pointer.readBigUInt64BE()));
    const leakedCluster = 40;
    writeSync(fd, Buffer.from([0, 1]), 0, 2, Number(pointer.readBigUInt64BE()) + leakedCluster * 2);
    ftruncateSync(fd, 4 * MiB);
    closeSync(fd);
    const leaky = spawnSync(qemuImg as string, ["check", "top.qcow2"], { cwd: scratch.folder, encoding: "utf8" });
    expect(leaky).toMatchObject({ status: 3, stdout: expect.stringContaining("1 leaked clusters") });
    expect((await stream(["top.qcow2"])).code).toBe(0);
    expect(img("check", "top.qcow2")).toContain("No errors");
    img("compare", "top.qcow2", "base.raw");
  });

  test("a reader that goes away does not make it fail", async () => {
    const closing: RunOptions["started"] = (child) => {
      child.stdout?.once("data", () => child.stdout?.destroy());
    };
    const { stderr, code } = await stream(["--progress=json", "--speed", "40M", "top.qcow2"], { started: closing });
    expect({ stderr, code }).toEqual({ stderr: "", code: 0 });
    expect(img("info", "top.qcow2")).not.toContain("backing file");
    img("compare", "top.qcow2", "base.raw");
  });
});
