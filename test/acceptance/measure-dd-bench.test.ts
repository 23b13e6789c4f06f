/** `spindle measure`, `dd` and `bench` do what qemu-img's commands do. */
import { existsSync, readFileSync } from "node:fs";
import { peer } from "@spindle/testkit/peers";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { isSaidAlike, run, Scratch, spindle } from "./program.ts";

const qemuImg = peer("qemu-img");
const qemuIo = peer("qemu-io");

function titled(words: readonly string[]): [title: string, words: readonly string[]] {
  return [words.join(" "), words];
}

describe.skipIf(qemuImg === undefined || qemuIo === undefined)("as qemu-img", () => {
  const scratch = new Scratch();
  const img = (...argv: string[]): string => scratch.tool(qemuImg as string, ...argv);
  beforeAll(() => {
    img("create", "-f", "raw", "base.raw", "4M");
    scratch.tool(qemuIo as string, "-f", "raw", "-c", "write -P 1 100k 1M", "-c", "write -P 2 3M 1k", "base.raw");
    img("create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "over.qcow2", "8M");
    scratch.tool(qemuIo as string, "-c", "write -P 3 6M 70k", "-c", "write -z 128k 64k", "over.qcow2");
    scratch.tool("truncate", "-s", "1000", "odd.raw");
  });
  afterAll(() => scratch[Symbol.dispose]());

  test.each(
    [
      ["base.raw"],
      ["odd.raw"],
      ["-O", "qcow2", "base.raw"],
      ["-O", "qcow2", "over.qcow2"],
      ["--output=json", "-O", "qcow2", "over.qcow2"],
      ["-O", "qcow2", "-o", "cluster_size=4k", "over.qcow2"],
      ["-O", "qcow2", "-o", "cluster_size=2M,refcount_bits=1", "over.qcow2"],
      ["-O", "qcow2", "-o", "preallocation=full", "base.raw"],
      ["-O", "qcow2", "-o", "preallocation=metadata", "base.raw"],
      ["-O", "qcow2", "-o", "backing_file=x,backing_fmt=raw", "base.raw"],
      ["-O", "qcow2", "-o", "size=1G", "base.raw"],
      ["-f", "raw", "-O", "qcow2", "over.qcow2"],
      ["--image-opts", "-O", "qcow2", "driver=qcow2,file.filename=over.qcow2"],
      ["--size", "0", "-O", "qcow2"],
      ["--size", "1G", "-O", "qcow2"],
      ["--size", "2P", "-O", "qcow2", "-o", "cluster_size=2M"],
      ["--size", "10T", "-O", "qcow2", "-o", "cluster_size=512"],
      ["--output=json", "--size", "10G", "-O", "qcow2", "-o", "cluster_size=4k,refcount_bits=64"],
      ["--size", "1000", "-O", "raw"],
      ["--size", "1G", "base.raw"],
      ["-O", "nonsense", "base.raw"],
      ["-O", "qcow2", "-o", "nonsense=1", "base.raw"],
      ["base.raw", "over.qcow2"],
      ["missing.raw"],
      [],
    ].map(titled),
  )("measure %s", { concurrent: true }, async (_title, words) => {
    const ours = await spindle(["measure", ...words], { cwd: scratch.folder });
    const theirs = await run([qemuImg as string, "measure", ...words], { cwd: scratch.folder });
    expect({ stdout: ours.stdout, code: ours.code }).toEqual({ stdout: theirs.stdout, code: theirs.code });
    if (!isSaidAlike(ours, theirs)) expect(ours.stderr).toMatch(ours.code === 0 ? /^$/ : /^spindle: [^\n]+\n$/);
  });

  test.each(
    [
      ["if=base.raw", "of=out"],
      ["-f", "raw", "-O", "qcow2", "if=base.raw", "of=out"],
      ["-O", "raw", "if=over.qcow2", "of=out", "bs=1M"],
      ["if=over.qcow2", "of=out", "bs=1M", "count=3"],
      ["if=over.qcow2", "of=out", "bs=64k", "skip=1"],
      ["of=out", "if=over.qcow2", "bs=1000", "skip=7", "count=50"],
      ["if=base.raw", "of=out", "count=0"],
      ["-f", "raw", "if=base.raw", "of=out", "skip=100M"],
      ["-U", "if=odd.raw", "of=out", "bs=1"],
      ["--image-opts", "if=driver=qcow2,file.filename=over.qcow2", "of=out", "bs=2M"],
      ["if=base.raw"],
      ["of=out"],
      ["if=base.raw", "of=out", "bs=1x"],
      ["if=base.raw", "of=out", "bs=0"],
      ["if=base.raw", "of=out", "nonsense=1"],
      ["if=base.raw", "of=out", "count=-1"],
      ["-f", "nonsense", "if=base.raw", "of=out"],
      ["-O", "nonsense", "if=base.raw", "of=out"],
      ["if=missing.raw", "of=out"],
      ["if=base.raw", "of=no-folder/out"],
    ].map(titled),
  )("dd %s", { concurrent: true }, async (_title, words) => {
    using mine = new Scratch();
    using its = new Scratch();
    for (const own of [mine, its])
      for (const name of ["base.raw", "over.qcow2", "odd.raw"]) own.tool("cp", scratch.path(name), name);
    const ours = await spindle(["dd", ...words], { cwd: mine.folder });
    const theirs = await run([qemuImg as string, "dd", ...words], { cwd: its.folder });
    expect({ stdout: ours.stdout, code: ours.code }, ours.stderr).toEqual({ stdout: theirs.stdout, code: theirs.code });
    expect(ours.stderr === "").toBe(theirs.stderr === "" || theirs.stderr.startsWith("WARNING"));
    if (theirs.code !== 0) return;
    const content = (own: Scratch): string => {
      if (!words.includes("qcow2")) return readFileSync(own.path("out")).toString("latin1");
      own.tool(qemuImg as string, "check", "out");
      return own.tool(qemuImg as string, "map", "--output=json", "out");
    };
    expect(existsSync(mine.path("out"))).toBe(true);
    expect(content(mine)).toBe(content(its));
  });

  test.each(
    [
      ["-c", "100", "-d", "4", "-f", "raw", "base.raw"],
      ["-w", "-c", "64", "-d", "8", "-s", "8k", "-S", "64k", "-o", "1M", "--pattern=3", "over.qcow2"],
      ["-w", "-c", "50", "-d", "8", "--flush-interval=16", "--no-drain", "over.qcow2"],
      ["-w", "-c", "40", "-d", "4", "--flush-interval=8", "-t", "writeback", "over.qcow2"],
      ["-c", "x", "base.raw"],
      ["--flush-interval=10", "base.raw"],
      ["-w", "--flush-interval=2", "-d", "4", "base.raw"],
      ["-o", "x", "base.raw"],
      ["-i", "nonsense", "base.raw"],
      ["--pattern=300", "-w", "base.raw"],
      ["missing.raw"],
      ["base.raw", "over.qcow2"],
      [],
    ].map(titled),
  )("bench %s", async (_title, words) => {
    using mine = new Scratch();
    using its = new Scratch();
    for (const own of [mine, its])
      for (const name of ["base.raw", "over.qcow2"]) own.tool("cp", scratch.path(name), name);
    const timeless = (text: string): string => text.replace(/[\d.]+ seconds/, "N seconds");
    const ours = await spindle(["bench", ...words], { cwd: mine.folder });
    const theirs = await run([qemuImg as string, "bench", ...words], { cwd: its.folder });
    expect([timeless(ours.stdout), ours.code]).toEqual([timeless(theirs.stdout), theirs.code]);
    if (!isSaidAlike(ours, theirs)) expect(ours.stderr).toMatch(ours.code === 0 ? /^$/ : /^spindle: [^\n]+\n$/);
    for (const own of [mine, its]) own.tool(qemuImg as string, "convert", "-O", "raw", "over.qcow2", "content");
    expect(readFileSync(mine.path("content")).equals(readFileSync(its.path("content")))).toBe(true);
  });
});
