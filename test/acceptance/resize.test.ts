/** `spindle resize` does what `qemu-img resize` does. */
import { readFileSync } from "node:fs";
import { MiB } from "@spindle/base";
import { peer } from "@spindle/testkit/peers";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { isSaidAlike, run, Scratch, spindle } from "./program.ts";

const qemuImg = peer("qemu-img");
const qemuIo = peer("qemu-io");

describe.skipIf(qemuImg === undefined || qemuIo === undefined)("resize", () => {
  const scratch = new Scratch();
  beforeAll(() => {
    const img = (...argv: string[]): string => scratch.tool(qemuImg as string, ...argv);
    img("create", "-f", "raw", "disk.raw", "4M");
    scratch.tool(qemuIo as string, "-f", "raw", "-c", "write -P 1 0 4M", "disk.raw");
    img("convert", "-O", "qcow2", "disk.raw", "disk.qcow2");
    img("create", "-f", "qcow2", "-b", "disk.raw", "-F", "raw", "over.qcow2", "1M");
  });
  afterAll(() => scratch[Symbol.dispose]());

  const FILES = ["disk.raw", "disk.qcow2", "over.qcow2"];

  test.each(
    [
      ["-f", "raw", "disk.raw", "8M"],
      ["-f", "raw", "disk.raw", "+1M"],
      ["-f", "raw", "--shrink", "disk.raw", "-1M"],
      ["-f", "raw", "disk.raw", "--shrink", "--", "1M"],
      ["-f", "raw", "--preallocation=falloc", "disk.raw", "+64k"],
      ["-f", "raw", "--preallocation=full", "disk.raw", "5M"],
      ["-f", "qcow2", "disk.qcow2", "8M"],
      ["-f", "qcow2", "disk.qcow2", "1T"],
      ["-q", "disk.qcow2", "+512"],
      ["--shrink", "disk.qcow2", "-512"],
      ["--shrink", "disk.qcow2", "512"],
      ["disk.qcow2", "4M"],
      ["--preallocation=metadata", "disk.qcow2", "+10M"],
      ["--preallocation=full", "disk.qcow2", "+1M"],
      ["over.qcow2", "+8M"],
      ["--image-opts", "driver=qcow2,file.filename=disk.qcow2", "+1M"],
      ["-f", "raw", "disk.raw", "-1M"],
      ["-f", "raw", "--shrink", "disk.raw", "-100M"],
      ["-f", "raw", "--preallocation=metadata", "disk.raw", "+1M"],
      ["-f", "raw", "--preallocation=full", "disk.raw", "1M"],
      ["--preallocation=nonsense", "disk.qcow2", "+1M"],
      ["-f", "raw", "disk.raw", "1x"],
      ["-f", "raw", "disk.raw", "+"],
      ["disk.qcow2", "1000000"],
      ["disk.qcow2", "1E"],
      ["missing.raw", "1M"],
      ["disk.qcow2", "1M", "2M"],
      ["disk.qcow2"],
    ].map((words): [string, string[]] => [words.join(" "), words]),
  )("%s", { concurrent: true }, async (_title, words) => {
    using mine = new Scratch();
    using its = new Scratch();
    for (const own of [mine, its]) for (const name of FILES) own.tool("cp", scratch.path(name), name);
    const ours = await spindle(["resize", ...words], { cwd: mine.folder });
    const theirs = await run([qemuImg as string, "resize", ...words], { cwd: its.folder });
    expect({ stdout: ours.stdout, code: ours.code }).toEqual({ stdout: theirs.stdout, code: theirs.code });
    if (ours.code !== 0 && !isSaidAlike(ours, theirs)) expect(ours.stderr).toMatch(/^(spindle: [^\n]+\n)+$/);
    for (const name of FILES) {
      const raw = (own: Scratch): Buffer => {
        const format = name.endsWith("raw") ? "raw" : "qcow2";
        const size = Number(
          /"virtual-size": (\d+)/.exec(own.tool(qemuImg as string, "info", "--output=json", name))?.[1],
        );
        if (size > 64 * MiB) return Buffer.from(String(size));
        own.tool(qemuImg as string, "convert", "-f", format, "-O", "raw", name, "content");
        return readFileSync(own.path("content"));
      };
      expect(raw(mine).equals(raw(its)), name).toBe(true);
      if (name.endsWith("qcow2")) mine.tool(qemuImg as string, "check", name);
    }
  });

  test.each(["metadata", "falloc", "full"])("%s gives space to what hides a longer backing file", async (mode) => {
    using mine = new Scratch();
    using its = new Scratch();
    for (const own of [mine, its]) {
      own.tool("cp", scratch.path("disk.raw"), "disk.raw");
      own.tool(qemuImg as string, "create", "-f", "qcow2", "-b", "disk.raw", "-F", "raw", "over.qcow2", "1055k");
    }
    const words = ["resize", `--preallocation=${mode}`, "over.qcow2", "2M"];
    expect((await spindle(words, { cwd: mine.folder })).code).toBe(0);
    its.tool(qemuImg as string, ...words);
    const [ours, theirs] = [mine, its].map((own) => own.tool(qemuImg as string, "map", "--output=json", "over.qcow2"));
    expect(ours).toBe(theirs);
  });
});
