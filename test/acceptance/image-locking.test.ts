/** Programs that use one image keep out of each other's way: ours and QEMU's, either of them first. */
import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync, statSync } from "node:fs";
import { peer } from "@spindle/testkit/peers";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { run, Scratch, SPINDLE, spindle } from "./program.ts";

const qemuImg = peer("qemu-img");
const qemuIo = peer("qemu-io");

const WITHOUT_LOCKS = { SPINDLE_NO_KOFFI: "1" };

describe.skipIf(qemuImg === undefined || qemuIo === undefined)("an image in use", () => {
  const scratch = new Scratch();
  const here = { cwd: scratch.folder };
  const holders: ChildProcess[] = [];

  beforeAll(() => {
    scratch.tool(qemuImg as string, "create", "-q", "-f", "raw", "disk.raw", "1M");
    scratch.tool(qemuImg as string, "create", "-q", "-f", "qcow2", "base.qcow2", "1M");
    scratch.tool(qemuImg as string, "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2");
  });
  afterEach(async () => {
    for (const holder of holders.splice(0)) await ended(holder);
  });
  afterAll(() => scratch[Symbol.dispose]());

  /** Keeps a program running that has opened an image, until the test is over. */
  async function hold(image: string, [program = "", ...argv]: readonly string[]): Promise<void> {
    const holder = spawn(program, argv, { cwd: scratch.folder, stdio: ["pipe", "ignore", "inherit"] });
    holders.push(holder);
    await lockedBytes(scratch.path(image), (bytes) => bytes.length > 0);
  }

  const qemu = (...argv: string[]): string[] => [qemuIo as string, ...argv];
  const ours = (image: string, format: string, more = ""): string[] => [
    ...SPINDLE,
    ...["daemon", "--qmp", "stdio"],
    ...["--blockdev", `driver=${format},node-name=disk,file.driver=file,file.filename=${image}${more}`],
  ];

  test.each([
    ["qcow2, to write", "base.qcow2", qemu("-f", "qcow2", "base.qcow2"), ours("base.qcow2", "qcow2")],
    ["raw, to write", "disk.raw", qemu("-f", "raw", "disk.raw"), ours("disk.raw", "raw")],
    [
      "qcow2, to read",
      "base.qcow2",
      qemu("-r", "-f", "qcow2", "base.qcow2"),
      ours("base.qcow2", "qcow2", ",read-only=on"),
    ],
    ["raw, to read", "disk.raw", qemu("-r", "-f", "raw", "disk.raw"), ours("disk.raw", "raw", ",read-only=on")],
    [
      "qcow2, forced",
      "base.qcow2",
      qemu("-r", "-U", "-f", "qcow2", "base.qcow2"),
      ours("base.qcow2", "qcow2", ",read-only=on,force-share=on"),
    ],
    ["a base", "base.qcow2", qemu("-f", "qcow2", "top.qcow2"), ours("top.qcow2", "qcow2")],
  ])("is locked at the bytes that QEMU locks: %s", async (_what, image, theirs, mine) => {
    const path = scratch.path(image);
    await hold(image, theirs);
    const expected = await lockedBytes(path, (bytes) => bytes.length > 0);
    for (const holder of holders.splice(0)) await ended(holder);
    await hold(image, mine);
    expect(await lockedBytes(path, (bytes) => bytes.length >= expected.length)).toEqual(expected);
  });

  test.each([
    ["ours", () => ours("base.qcow2", "qcow2")],
    ["QEMU's", () => qemu("-f", "qcow2", "base.qcow2")],
  ])("that a program of %s writes is refused by ours in QEMU's words, unless it is forced", async (_whose, holder) => {
    await hold("base.qcow2", holder());
    for (const argv of [
      ["info", "base.qcow2"],
      ["map", "base.qcow2"],
    ]) {
      const theirs = await run([qemuImg as string, ...argv], here);
      const mine = await spindle(argv, here);
      expect(mine).toEqual({ ...theirs, stderr: theirs.stderr.replace("qemu-img:", "spindle:") });
      expect(theirs.code).toBe(1);
      expect((await spindle([argv[0] as string, "-U", ...argv.slice(1)], here)).code).toBe(0);
    }
  });

  test("that a program of ours writes is refused by QEMU's", async () => {
    await hold("base.qcow2", ours("base.qcow2", "qcow2"));
    const { code, stderr } = await run([qemuImg as string, "info", "base.qcow2"], here);
    expect(code).toBe(1);
    expect(stderr).toContain('Failed to get shared "write" lock');
  });

  test("is neither streamed nor created anew beside a writer, and stays as it was", async () => {
    await hold("top.qcow2", qemu("-f", "qcow2", "top.qcow2"));
    const before = readFileSync(scratch.path("top.qcow2"));
    for (const argv of [
      ["stream", "top.qcow2"],
      ["create", "-f", "qcow2", "top.qcow2", "1M"],
    ]) {
      const { code, stderr } = await spindle(argv, here);
      expect(stderr).toMatch(
        /Failed to get [a-z "]+ lock\nIs another process using the image \[[^\n]*top.qcow2\]\?\n$/,
      );
      expect(code).toBe(1);
    }
    expect(readFileSync(scratch.path("top.qcow2")).equals(before)).toBe(true);
  });

  test("as a base is written by nobody while an overlay is open, and read by everybody", async () => {
    await hold("base.qcow2", ours("top.qcow2", "qcow2"));
    const writer = await run(qemu("-f", "qcow2", "-c", "write 0 64k", "base.qcow2"), here);
    expect(writer.stderr).toContain('Failed to get "write" lock');
    expect((await run(qemu("-r", "-f", "qcow2", "-c", "read 0 64k", "base.qcow2"), here)).code).toBe(0);
    expect((await spindle(["info", "base.qcow2"], here)).code).toBe(0);
  });

  test("is free again when the program that used it is killed", async () => {
    await hold("base.qcow2", ours("base.qcow2", "qcow2"));
    const holder = holders.pop() as ChildProcess;
    holder.kill("SIGKILL");
    await ended(holder);
    expect((await run(qemu("-f", "qcow2", "-c", "write 0 64k", "base.qcow2"), here)).code).toBe(0);
  });

  test("is opened without locks where they are not to be had, and not when they are asked for", async () => {
    await hold("base.qcow2", qemu("-f", "qcow2", "base.qcow2"));
    expect((await spindle(["info", "base.qcow2"], { ...here, env: WITHOUT_LOCKS })).code).toBe(0);
    const asked = ours("base.qcow2", "qcow2", ",file.locking=on,read-only=on");
    const { code, stderr } = await run(asked, { ...here, env: WITHOUT_LOCKS });
    expect(stderr).toContain("Locking files needs koffi and Linux");
    expect(code).toBe(1);
  });
});

/** Ends a program by closing its standard input, at the latest. */
async function ended(child: ChildProcess): Promise<void> {
  child.stdin?.end();
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGTERM");
  await exit;
}

/** The bytes of a file that open file descriptions have locks on, as soon as they are as wanted. */
async function lockedBytes(path: string, wanted: (bytes: readonly number[]) => boolean): Promise<number[]> {
  const inode = `:${statSync(path).ino}`;
  for (let tries = 0; ; tries++) {
    const bytes = readFileSync("/proc/locks", "utf8")
      .split("\n")
      .map((line) => line.split(/\s+/))
      .filter((fields) => fields[1] === "OFDLCK" && fields[5]?.endsWith(inode) === true)
      .flatMap((fields) => span(Number(fields[6]), Number(fields[7])))
      .sort((one, other) => one - other);
    if (wanted(bytes) || tries === 500) return bytes;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

function span(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, index) => first + index);
}
