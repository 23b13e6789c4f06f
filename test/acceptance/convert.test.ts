/** `spindle convert` makes what `qemu-img convert` makes: the same content, laid out alike, and clean for `qemu-img check`. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import * as zlib from "node:zlib";
import { MiB, SeededRandom } from "@spindle/base";
import { randomBytes } from "@spindle/testkit";
import { peer } from "@spindle/testkit/peers";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { isOneClearLine, isSaidAlike, run, Scratch, spindle } from "./program.ts";

const qemuImg = peer("qemu-img");
const qemuIo = peer("qemu-io");

describe.skipIf(qemuImg === undefined || qemuIo === undefined)("convert", () => {
  const scratch = new Scratch();
  const img = (...argv: string[]): string => scratch.tool(qemuImg as string, ...argv);
  const io = (file: string, ...commands: string[]): string =>
    scratch.tool(qemuIo as string, ...commands.flatMap((command) => ["-c", command]), file);

  beforeAll(() => {
    img("create", "-f", "raw", "base.raw", "10M");
    io("base.raw", "write -P 1 2M 100k", "write -z 3M 128k", "write -P 2 7M 513", "write -P 0 9M 64k");
    img("create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "mid.qcow2");
    io("mid.qcow2", "write -P 1 0 100k", "write -z 1M 128k", "write -P 3 5M 64k", "discard 0 64k");
    img("create", "-f", "qcow2", "-b", "mid.qcow2", "-F", "qcow2", "-o", "cluster_size=4k", "top.qcow2", "12M");
    io("top.qcow2", "write -P 7 11M 20k", "write -P 8 2M 4k", "write -z 5M 32k");
    img("convert", "-c", "-O", "qcow2", "mid.qcow2", "zlib.qcow2");
    img("create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "-o", "cluster_size=4k", "other.qcow2", "16M");
    io("other.qcow2", "write -P 5 4M 70000", "write -z 2M 4k", "write -P 6 12M 1M");
    writeFileSync(scratch.path("odd.raw"), "x".repeat(1000));
    writeFileSync(scratch.path("empty.raw"), "");
    const random = new SeededRandom(4);
    const mixed = Buffer.alloc(24 * MiB);
    for (let at = 0; at < mixed.length; at += 32 * 1024)
      if (random.chance(0.6)) mixed.set(randomBytes(random, 1 + random.below(32 * 1024)), at);
      else if (random.chance(0.5)) mixed.fill("text that repeats itself, ", at, at + 20_000);
    writeFileSync(scratch.path("mixed.raw"), mixed);
  });
  afterAll(() => scratch[Symbol.dispose]());

  /** The places of the data, and everything else that a map tells. */
  const layout = (folder: Scratch, format: string, file: string): unknown =>
    JSON.parse(folder.tool(qemuImg as string, "map", "-f", format, "--output=json", file));

  const CASES = [
    ..."base.raw mid.qcow2 top.qcow2 zlib.qcow2 other.qcow2 odd.raw empty.raw mixed.raw"
      .split(" ")
      .flatMap((source) => [
        ["-O", "qcow2", source],
        ["-O", "raw", source],
        ["-c", "-O", "qcow2", source],
      ]),
    ["-O", "qcow2", "-o", "cluster_size=4k", "other.qcow2"],
    ["-O", "qcow2", "-o", "cluster_size=2M", "mixed.raw"],
    ["-O", "qcow2", "-o", "compat=0.10", "mid.qcow2"],
    ["-O", "qcow2", "-o", "cluster_size=64k,refcount_bits=1", "mixed.raw"],
    ["-O", "qcow2", "-o", "size=64M", "top.qcow2"],
    ["-O", "raw", "-S", "0", "top.qcow2"],
    ["-O", "qcow2", "-S", "0", "base.raw"],
    ["-O", "raw", "-S", "512", "mixed.raw"],
    ["-O", "raw", "-S", "12k", "mixed.raw"],
    ["-O", "raw", "-S", "64k", "mixed.raw"],
    ["-f", "raw", "-O", "raw", "top.qcow2"],
    ["base.raw"],
    ["-q", "-m", "1", "-T", "none", "-t", "writeback", "base.raw"],
    ["-t", "writethrough", "-O", "qcow2", "base.raw"],
    ["-O", "qcow2", "base.raw", "odd.raw", "mid.qcow2"],
    ["-O", "raw", "odd.raw", "empty.raw", "top.qcow2"],
    ["-O", "qcow2", "-B", "base.raw", "-F", "raw", "mid.qcow2"],
    ["-O", "qcow2", "-B", "base.raw", "-F", "raw", "other.qcow2"],
    ["-O", "qcow2", "-c", "-o", "backing_file=base.raw,backing_fmt=raw", "other.qcow2"],
    ["-O", "qcow2", "-B", "mid.qcow2", "-F", "qcow2", "top.qcow2"],
    ["--image-opts", "-O", "raw", "driver=qcow2,file.filename=mid.qcow2"],
    ["--image-opts", "-O", "qcow2", "file.driver=file,file.filename=top.qcow2"],
    ["-O", "raw", 'json:{"driver":"qcow2","file":{"driver":"file","filename":"mid.qcow2"}}'],
    ["-O", "raw", 'json:{"driver":"raw","file.driver":"file","file.filename":"mid.qcow2"}'],
    ["-r", "1G", "-U", "-O", "qcow2", "base.raw"],
    ["-C", "-O", "raw", "base.raw"],
    ["-p", "-q", "-O", "raw", "base.raw"],
  ].map(titled);

  test.each(CASES)("makes what qemu-img makes: %s", { concurrent: true }, async (_title, words) => {
    using own = new Scratch();
    for (const name of [
      "base.raw",
      "mid.qcow2",
      "top.qcow2",
      "zlib.qcow2",
      "other.qcow2",
      "odd.raw",
      "empty.raw",
      "mixed.raw",
    ])
      own.tool("ln", scratch.path(name), name);
    const at = words.indexOf("-O");
    const format = at < 0 ? "raw" : (words[at + 1] as string);
    const ours = await spindle(["convert", ...words, "ours"], { cwd: own.folder });
    const theirs = await run([qemuImg as string, "convert", ...words, "theirs"], { cwd: own.folder });
    expect(ours).toEqual(theirs);
    own.tool(qemuImg as string, "compare", "-f", format, "-F", format, "ours", "theirs");
    if (format === "qcow2") own.tool(qemuImg as string, "check", "ours");
    // The kernel copies zeros as they come.
    if (!words.includes("-C")) expect(layout(own, format, "ours")).toEqual(layout(own, format, "theirs"));
  });

  test.each([
    ["zlib", "-W", "--workers=3"],
    ["zlib", "--workers=2"],
    ["zlib", "--workers=0"],
    ["zlib", "-W", "-S", "0"],
    ["zlib", "-m", "1"],
    ["zstd", "-W", "--workers=2"],
    ["zstd", "--workers=0"],
  ])("compresses with %s %s %s", async (kind, ...words) => {
    const target = `packed-${kind}${words.join("")}.qcow2`;
    const argv = ["convert", "-c", "-O", "qcow2", "-o", `compression_type=${kind}`, ...words, "mixed.raw", target];
    expect(await spindle(argv, { cwd: scratch.folder })).toEqual({ stdout: "", stderr: "", code: 0 });
    img("compare", target, "mixed.raw");
    expect(img("check", target)).toMatch(/No errors/);
    img("convert", "-c", "-O", "qcow2", "-o", `compression_type=${kind}`, "mixed.raw", "theirs.qcow2");
    const size = (file: string): number => Number(/offset: (\d+)/.exec(img("check", file))?.[1]);
    expect(size(target)).toBeLessThan(size("theirs.qcow2") * 1.02);
  });

  test("copies into an image that is there, and says what it takes for zeros", async () => {
    for (const words of [["-n"], ["-n", "--target-is-zero"], ["-n", "-c"]]) {
      img("create", "-f", "qcow2", "there.qcow2", "32M");
      if (words.length === 1) io("there.qcow2", "write -P 9 0 32M");
      const argv = ["convert", ...words, "-O", "qcow2", "top.qcow2", "there.qcow2"];
      expect(await spindle(argv, { cwd: scratch.folder })).toEqual({ stdout: "", stderr: "", code: 0 });
      expect(img("check", "there.qcow2")).toMatch(/No errors/);
      const bytes = img("convert", "-O", "raw", "there.qcow2", "there.raw") + img("convert", "top.qcow2", "top.raw");
      expect(bytes).toBe("");
      const there = readFileSync(scratch.path("there.raw"));
      const top = readFileSync(scratch.path("top.raw"));
      expect(there.subarray(0, top.length).equals(top)).toBe(true);
      expect(there.subarray(top.length).every((byte) => byte === (words.length === 1 ? 9 : 0))).toBe(true);
    }
  });

  test("salvages what can be read, and names what cannot", async () => {
    img("convert", "-O", "qcow2", "mixed.raw", "bad.qcow2");
    // The second L2 entry points at no cluster.
    const bytes = readFileSync(scratch.path("bad.qcow2"));
    const l2 = Number(bytes.readBigUInt64BE(Number(bytes.readBigUInt64BE(40))) & 0x00fffffffffffe00n);
    bytes.writeBigUInt64BE(bytes.readBigUInt64BE(l2 + 8) + 512n, l2 + 8);
    writeFileSync(scratch.path("bad.qcow2"), bytes);
    const argv = ["-O", "raw", "bad.qcow2", "saved.raw"];
    const plain = await spindle(["convert", ...argv], { cwd: scratch.folder });
    expect(plain.code).toBe(1);
    expect(isOneClearLine(plain.stderr), plain.stderr).toBe(true);
    const saved = await spindle(["convert", "--salvage", ...argv], { cwd: scratch.folder });
    expect(saved.code).toBe(0);
    expect(saved.stderr).toMatch(/^spindle: warning: error while reading/);
    const [mixed, result] = [readFileSync(scratch.path("mixed.raw")), readFileSync(scratch.path("saved.raw"))];
    expect(result.subarray(0, 65_536).equals(mixed.subarray(0, 65_536))).toBe(true);
    expect(result.subarray(65_536, 131_072).every((byte) => byte === 0)).toBe(true);
    expect(result.subarray(131_072).equals(mixed.subarray(131_072))).toBe(true);
  });

  test("tells its progress as JSON, and in qemu-img's way", async () => {
    const json = await spindle(["convert", "--progress=json", "-O", "qcow2", "mixed.raw", "p.qcow2"], {
      cwd: scratch.folder,
    });
    const lines = json.stdout
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(lines.at(-1)).toMatchObject({ type: "result", transferred: 24 * MiB, size: 24 * MiB, outcome: "completed" });
    const people = await spindle(["convert", "-p", "-O", "qcow2", "mixed.raw", "p.qcow2"], { cwd: scratch.folder });
    expect(people.stdout).toMatch(/^ {4}\(0\.00\/100%\)\r.* {4}\(100\.00\/100%\)\r\n$/s);
  });

  test.each(
    [
      ["x"],
      ["-S", "3", "base.raw", "x"],
      ["-S", "1x", "base.raw", "x"],
      ["-S", "32M", "base.raw", "x"],
      ["-m", "17", "base.raw", "x"],
      ["-m", "0", "base.raw", "x"],
      ["-t", "nonsense", "base.raw", "x"],
      ["-T", "nonsense", "base.raw", "x"],
      ["-r", "nonsense", "base.raw", "x"],
      ["--target-is-zero", "base.raw", "x"],
      ["-n", "-o", "cluster_size=4k", "base.raw", "x"],
      ["-n", "-O", "qcow2", "base.raw", "missing"],
      ["-n", "base.raw", "odd.raw"],
      ["-C", "-c", "base.raw", "x"],
      ["-C", "-S", "4k", "base.raw", "x"],
      ["-c", "-O", "raw", "base.raw", "x"],
      ["-c", "-O", "qcow2", "-o", "preallocation=full", "base.raw", "x"],
      ["-O", "nonsense", "base.raw", "x"],
      ["-f", "nonsense", "base.raw", "x"],
      ["-O", "qcow2", "-o", "nonsense=1", "base.raw", "x"],
      ["-O", "qcow2", "-o", "cluster_size=3k", "base.raw", "x"],
      ["-O", "qcow2", "-F", "raw", "base.raw", "x"],
      ["-O", "qcow2", "-o", "backing_file=base.raw", "base.raw", "x"],
      ["-O", "qcow2", "-B", "base.raw", "-F", "raw", "base.raw", "odd.raw", "x"],
      ["-O", "raw", "-B", "base.raw", "-F", "raw", "base.raw", "x"],
      ["-O", "raw", "base.raw", "no-folder/x"],
      ["--target-image-opts", "base.raw", "driver=raw,file.filename=x"],
      ["-l", "snapshot", "base.raw", "x"],
      ["--bitmaps", "base.raw", "x"],
      ["missing.raw", "x"],
      ["--nonsense", "base.raw", "x"],
    ].map(titled),
  )("refuses in one line what qemu-img refuses: %s", { concurrent: true }, async (_title, words) => {
    const ours = await spindle(["convert", ...words], { cwd: scratch.folder });
    expect(ours).toMatchObject({ stdout: "", code: 1 });
    const theirs = await run([qemuImg as string, "convert", ...words], { cwd: scratch.folder });
    expect(theirs.code).toBe(1);
    expect(isSaidAlike(ours, theirs) || isOneClearLine(ours.stderr), ours.stderr).toBe(true);
  });

  test.runIf("zstdCompressSync" in zlib)(
    "refuses zstd by name where the host has none, and makes no image",
    async () => {
      const hidden = `import zlib from "node:zlib"; import { syncBuiltinESMExports } from "node:module";
      delete zlib.zstdCompressSync; syncBuiltinESMExports();`;
      const env = { NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(hidden)}` };
      const argv = ["convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", "base.raw", "none.qcow2"];
      const refused = await spindle(argv, { cwd: scratch.folder, env });
      expect(refused).toMatchObject({ code: 1, stderr: "spindle: compressing with zstd needs Node 22.15 or newer\n" });
      expect(existsSync(scratch.path("none.qcow2"))).toBe(false);
    },
  );
});

/** A case and its name. */
function titled(words: readonly string[]): [title: string, words: readonly string[]] {
  return [words.join(" "), words];
}
