/** `spindle commit` and `spindle rebase` do what qemu-img's commands do: the same content everywhere in the chain. */
import { readFileSync } from "node:fs";
import { peer } from "@spindle/testkit/peers";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { isSaidAlike, run, Scratch, spindle } from "./program.ts";

const qemuImg = peer("qemu-img");
const qemuIo = peer("qemu-io");

/** From the top down. */
const FILES = ["top.qcow2", "mid.qcow2", "base.raw", "other.raw", "short.raw", "old.qcow2"];

describe.skipIf(qemuImg === undefined || qemuIo === undefined)("commit and rebase", () => {
  const scratch = new Scratch();
  beforeAll(() => {
    const img = (...argv: string[]): string => scratch.tool(qemuImg as string, ...argv);
    const io = (file: string, ...commands: string[]): string =>
      scratch.tool(qemuIo as string, ...commands.flatMap((command) => ["-c", command]), file);
    img("create", "-f", "raw", "base.raw", "4M");
    scratch.tool(qemuIo as string, "-f", "raw", "-c", "write -P 1 0 3M", "base.raw");
    img("create", "-f", "qcow2", "-o", "cluster_size=2M", "-b", "base.raw", "-F", "raw", "mid.qcow2");
    io("mid.qcow2", "write -P 2 1M 70k");
    img("create", "-f", "qcow2", "-b", "mid.qcow2", "-F", "qcow2", "top.qcow2", "6M");
    io("top.qcow2", "write -P 3 2M 64k", "write -z 0 128k", "write -P 4 5M 1k", "discard 1M 64k");
    img("create", "-f", "raw", "other.raw", "4M");
    scratch.tool(qemuIo as string, "-f", "raw", "-c", "write -P 1 512k 2M", "-c", "write -P 9 3M 64k", "other.raw");
    img("create", "-f", "raw", "short.raw", "1M");
    img("create", "-f", "qcow2", "-o", "compat=0.10,cluster_size=4k", "-b", "base.raw", "-F", "raw", "old.qcow2");
    io("old.qcow2", "write -P 7 100k 10k");
  });
  afterAll(() => scratch[Symbol.dispose]());

  /** What every image shows that can be opened, and what it says of its backing file. */
  function look(own: Scratch): unknown[] {
    return FILES.map((name) => {
      const info = JSON.parse(own.tool(qemuImg as string, "info", "--output=json", name)) as Record<string, unknown>;
      const backing = [info["backing-filename"], info["backing-filename-format"], info["virtual-size"]];
      if (info["backing-filename"] === "gone.raw") return [name, ...backing];
      const format = name.endsWith("raw") ? "raw" : "qcow2";
      own.tool(qemuImg as string, "convert", "-f", format, "-O", "raw", name, "content");
      if (format === "qcow2") own.tool(qemuImg as string, "check", name);
      return [name, ...backing, Buffer.from(readFileSync(own.path("content"))).toString("base64").length, hash(own)];
    });
  }
  const hash = (own: Scratch): string => own.tool("md5sum", "content");

  test.each(
    [
      ["commit", "top.qcow2"],
      ["commit", "mid.qcow2"],
      ["commit", "-d", "top.qcow2"],
      ["commit", "-q", "-t", "writethrough", "top.qcow2"],
      ["commit", "-b", "base.raw", "top.qcow2"],
      ["commit", "-b", "mid.qcow2", "top.qcow2"],
      ["commit", "-r", "100M", "old.qcow2"],
      ["commit", "-b", "nothing", "top.qcow2"],
      ["commit", "-b", "top.qcow2", "top.qcow2"],
      ["commit", "-b", "./base.raw", "top.qcow2"],
      ["commit", "-f", "raw", "base.raw"],
      ["commit", "-t", "nonsense", "top.qcow2"],
      ["commit", "-r", "nonsense", "top.qcow2"],
      ["commit", "missing.qcow2"],
      ["commit"],
      ["rebase", "-b", "other.raw", "-F", "raw", "top.qcow2"],
      ["rebase", "-b", "base.raw", "-F", "raw", "top.qcow2"],
      ["rebase", "-b", "short.raw", "-F", "raw", "top.qcow2"],
      ["rebase", "-b", "old.qcow2", "-F", "qcow2", "top.qcow2"],
      ["rebase", "-b", "", "top.qcow2"],
      ["rebase", "-b", "", "old.qcow2"],
      ["rebase", "-b", "other.raw", "-F", "raw", "old.qcow2"],
      ["rebase", "-u", "-b", "other.raw", "-F", "raw", "top.qcow2"],
      ["rebase", "-u", "-b", "gone.raw", "-F", "raw", "top.qcow2"],
      ["rebase", "-u", "top.qcow2"],
      ["rebase", "-b", "gone.raw", "-F", "raw", "top.qcow2"],
      ["rebase", "-b", "other.raw", "-F", "nonsense", "top.qcow2"],
      ["rebase", "-f", "raw", "-b", "other.raw", "-F", "raw", "base.raw"],
      ["rebase", "-T", "nonsense", "-b", "other.raw", "-F", "raw", "top.qcow2"],
      ["rebase", "-u", "-b", "other.raw", "top.qcow2"],
      ["rebase", "top.qcow2"],
      ["rebase"],
    ].map((words): [string, string[]] => [words.join(" "), words]),
  )("%s", { concurrent: true }, async (_title, words) => {
    using mine = new Scratch();
    using its = new Scratch();
    for (const own of [mine, its]) for (const name of FILES) own.tool("cp", scratch.path(name), name);
    const ours = await spindle(words, { cwd: mine.folder });
    const theirs = await run([qemuImg as string, ...words], { cwd: its.folder });
    expect({ stdout: ours.stdout, code: ours.code }, ours.stderr).toEqual({ stdout: theirs.stdout, code: theirs.code });
    if (!isSaidAlike(ours, theirs)) expect(ours.stderr).toMatch(ours.code === 0 ? /^$/ : /^spindle: [^\n]+\n$/);
    expect(look(mine)).toEqual(look(its));
  });

  test("the base of a commit is named as from the image above it", async () => {
    using own = new Scratch();
    const img = (...argv: string[]): string => own.tool(qemuImg as string, ...argv);
    own.tool("mkdir", "sub");
    img("create", "-f", "qcow2", "sub/base.qcow2", "1M");
    for (const name of ["sub/base.qcow2", "base.qcow2", own.path("sub/base.qcow2")]) {
      img("create", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "sub/top.qcow2");
      const words = ["commit", "-b", name, "sub/top.qcow2"];
      const theirs = await run([qemuImg as string, ...words], { cwd: own.folder });
      const ours = await spindle(words, { cwd: own.folder });
      expect({ name, stdout: ours.stdout, code: ours.code }).toEqual({
        name,
        stdout: theirs.stdout,
        code: theirs.code,
      });
    }
  });

  test("commit lets the base give up the space of what is zeros now", async () => {
    const allocated = await Promise.all(
      ["ours", "theirs"].map(async (whose) => {
        using own = new Scratch();
        const img = (...argv: string[]): string => own.tool(qemuImg as string, ...argv);
        img("create", "-f", "qcow2", "base.qcow2", "1M");
        own.tool(qemuIo as string, "-c", "write -P 1 0 1M", "base.qcow2");
        img("create", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2");
        own.tool(qemuIo as string, "-c", "write -z 128k 640k", "top.qcow2");
        if (whose === "ours") expect((await spindle(["commit", "top.qcow2"], { cwd: own.folder })).code).toBe(0);
        else img("commit", "top.qcow2");
        return (JSON.parse(img("check", "--output=json", "base.qcow2")) as Record<string, number>)[
          "allocated-clusters"
        ];
      }),
    );
    expect(allocated).toEqual([6, 6]);
  });
});
