/** `create`, `info`, `map` and `compare` print what qemu-img prints and end with its exit codes, over many kinds of images. */
import { truncateSync, writeFileSync } from "node:fs";
import { peer } from "@spindle/testkit/peers";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { isSaidAlike, run, Scratch, spindle } from "./program.ts";

const qemuImg = peer("qemu-img");
const qemuIo = peer("qemu-io");

describe.skipIf(qemuImg === undefined || qemuIo === undefined)("as qemu-img", () => {
  const scratch = new Scratch();
  const img = (...argv: string[]): string => scratch.tool(qemuImg as string, ...argv);
  const io = (file: string, ...commands: string[]): string =>
    scratch.tool(qemuIo as string, ...commands.flatMap((command) => ["-c", command]), file);

  beforeAll(() => {
    img("create", "-f", "raw", "base.raw", "10M");
    io("base.raw", "write -P 1 2M 100k", "write -z 3M 128k");
    img("create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "mid.qcow2");
    io("mid.qcow2", "write -P 1 0 100k", "write -z 1M 128k", "write -P 3 5M 64k", "discard 0 64k");
    img("create", "-f", "qcow2", "-b", "mid.qcow2", "-F", "qcow2", "-o", "cluster_size=4k", "top.qcow2", "12M");
    io("top.qcow2", "write -P 7 11M 20k", "write -P 8 2M 4k");
    img("create", "-f", "qcow2", "-o", "compat=0.10", "-b", "base.raw", "-F", "raw", "v2.qcow2");
    io("v2.qcow2", "write -P 4 64k 64k", "write -z 1M 64k");
    img("create", "-f", "qcow2", "short.qcow2", "1M");
    io("short.qcow2", "write -P 9 0 64k");
    img("create", "-f", "qcow2", "-b", "short.qcow2", "-F", "qcow2", "long.qcow2", "2M");
    img("convert", "-c", "-O", "qcow2", "mid.qcow2", "zlib.qcow2");
    img("convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", "mid.qcow2", "zstd.qcow2");
    img("convert", "-O", "qcow2", "-o", "cluster_size=2M", "mid.qcow2", "large.qcow2");
    img("convert", "-O", "qcow2", "-o", "cluster_size=512,refcount_bits=1", "mid.qcow2", "small.qcow2");
    img("convert", "-O", "raw", "mid.qcow2", "flat.raw");
    img("create", "-f", "qcow2", "-o", "lazy_refcounts=on", "lazy.qcow2", "64M");
    img("create", "-f", "qcow2", "huge.qcow2", "64T");
    img("create", "-f", "qcow2", "it's,a b.qcow2", "1M");
    img("create", "-u", "-f", "qcow2", "-b", "gone.raw", "-F", "raw", "orphan.qcow2", "1M");
    img("create", "-f", "qcow2", "spaced.qcow2", "8M");
    io("spaced.qcow2", "write -P 1 0 256k", "write -P 2 1M 256k", "write -z 64k 128k", "write -z 1M 512k");
    io("spaced.qcow2", "write -z -u 192k 64k", "write -z 4M 64k", "write -P 3 2M 64k");
    img("create", "-f", "qcow2", "kept.qcow2", "1M");
    for (const name of ["first", "second"]) img("snapshot", "-c", name, "kept.qcow2");
    writeFileSync(scratch.path("odd.raw"), "x".repeat(1000));
    writeFileSync(scratch.path("empty.raw"), "");
    img("convert", "-O", "raw", "base.raw", "longer.raw");
    truncateSync(scratch.path("longer.raw"), 20 * 1024 * 1024);
    img("convert", "-O", "raw", "longer.raw", "other.raw");
    io("other.raw", "write -P 1 15000077 1");
    scratch.tool("mkdir", "folder");
    img("create", "-f", "qcow2", "-b", "../mid.qcow2", "-F", "qcow2", "folder/far.qcow2");
  });
  afterAll(() => scratch[Symbol.dispose]());

  const IMAGES = [
    ..."base.raw mid.qcow2 top.qcow2 v2.qcow2 long.qcow2 zlib.qcow2 zstd.qcow2 large.qcow2 small.qcow2".split(" "),
    ..."lazy.qcow2 huge.qcow2 kept.qcow2 spaced.qcow2 odd.raw empty.raw folder/far.qcow2".split(" "),
    "it's,a b.qcow2",
  ];

  test.each(
    [
      ["-c one", "-c two", "-l", "-a one", "-d two", "-l"],
      ["-c a.name.that.is.longer.than.its.column", "-l", "-a 1", "-d 1", "-a gone", "-d gone"],
      ["-l", "-c x -d y", "-a x -l", ""],
      ["-q -c one", "-c one", "-d one", "-l"],
    ].map((steps): [string, string[]] => [steps.join("; "), steps]),
  )("snapshot %s", async (_title, steps) => {
    using own = new Scratch();
    const outcomes: object[] = [];
    for (const who of ["ours", "theirs"]) {
      const image = `${who}.qcow2`;
      own.tool("cp", scratch.path("mid.qcow2"), image);
      own.tool("cp", scratch.path("base.raw"), "base.raw");
      const all: object[] = [];
      for (const step of steps) {
        const words = ["snapshot", ...step.split(" ").filter((word) => word !== ""), image];
        const outcome =
          who === "ours"
            ? spindle(["--as", "qemu-img", ...words], { cwd: own.folder })
            : run([qemuImg as string, ...words], { cwd: own.folder });
        const { stdout, stderr, code } = await outcome;
        all.push({ stdout: stdout.replace(/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d/g, "DATE"), stderr, code });
      }
      outcomes.push(all);
    }
    expect(outcomes[0]).toEqual(outcomes[1]);
    own.tool(qemuImg as string, "check", "ours.qcow2");
    own.tool(qemuImg as string, "compare", "-U", "ours.qcow2", "theirs.qcow2");
  });

  test.each(
    [
      ...IMAGES.flatMap((image) => [
        ["info", image],
        ["info", "--output=json", image],
        ["map", "--output=json", image],
      ]),
      ["map", "top.qcow2"],
      ["map", "zlib.qcow2"],
      ["map", "folder/far.qcow2"],
      ["info", "orphan.qcow2"],
      ["info", "--backing-chain", "top.qcow2"],
      ["info", "--backing-chain", "--output=json", "folder/far.qcow2"],
      ["info", "--backing-chain", "orphan.qcow2"],
      ["info", "-f", "raw", "--output=json", "top.qcow2"],
      ["info", "-f", "qcow2", "base.raw"],
      ["info", "-f", "nonsense", "base.raw"],
      ["info", "-U", "base.raw"],
      ["info", "--image-opts", "driver=qcow2,file.driver=file,file.filename=top.qcow2"],
      ["info", 'json:{"driver":"qcow2","file":{"driver":"file","filename":"top.qcow2"}}'],
      ["info", "--output=json", "file:top.qcow2"],
      ["map", "--output=json", "--image-opts", "file.filename=top.qcow2"],
      ["map", "json:{'driver':'qcow2','file.filename':'top.qcow2'}"],
      ["compare", "--image-opts", "driver=raw,file.filename=base.raw", "file.filename=base.raw"],
      ["info", "missing.qcow2"],
      ["info", "--out=json", "top.qcow2"],
      ["info", "--image-opts", "driver=qcow2,file.filename=top.qcow2"],
      ["info", "--image-opts", "file.driver=file,file.filename=base.raw"],
      ["info", "--backing-chain", "--image-opts", "driver=qcow2,file.driver=file,file.filename=top.qcow2"],
      ["info", 'json:{"driver":"qcow2","file":{"driver":"file","filename":"v2.qcow2"}}'],
      ["info", 'json:{"driver":"raw","file.driver":"file","file.filename":"v2.qcow2"}'],
      ["info", "--image-opts", "driver=nonsense,file.filename=top.qcow2"],
      ["map", "--output=json", "--image-opts", "driver=qcow2,file.filename=mid.qcow2"],
      ["map", 'json:{"driver":"qcow2","file.filename":"mid.qcow2"}'],
      ["compare", "--image-opts", "driver=qcow2,file.filename=mid.qcow2", "driver=raw,file.filename=flat.raw"],
      ["compare", 'json:{"driver":"raw","file.filename":"base.raw"}', "base.raw"],
      ["info", "--output=nonsense", "base.raw"],
      ["info", "base.raw", "mid.qcow2"],
      ["info"],
      ["nonsense"],
      ["map", "--output=json", "-s", "1M", "--max-length=1M", "top.qcow2"],
      ["map", "--output=json", "-s", "70000", "-l", "1000", "top.qcow2"],
      ["map", "--output=json", "--start-offset=100M", "top.qcow2"],
      ["map", "-s", "nonsense", "top.qcow2"],
      ["map", "-f", "raw", "--output=json", "top.qcow2"],
      ["map", "orphan.qcow2"],
      ["compare", "base.raw", "base.raw"],
      ["compare", "mid.qcow2", "flat.raw"],
      ["compare", "zstd.qcow2", "small.qcow2"],
      ["compare", "-s", "mid.qcow2", "zlib.qcow2"],
      ["compare", "-s", "top.qcow2", "top.qcow2"],
      ["compare", "-s", "base.raw", "longer.raw"],
      ["compare", "-q", "base.raw", "mid.qcow2"],
      ["compare", "base.raw", "mid.qcow2"],
      ["compare", "base.raw", "longer.raw"],
      ["compare", "other.raw", "base.raw"],
      ["compare", "other.raw", "longer.raw"],
      ["compare", "-f", "raw", "-F", "raw", "top.qcow2", "mid.qcow2"],
      ["compare", "base.raw", "missing.raw"],
      ["compare", "-f", "nonsense", "base.raw", "base.raw"],
      ["compare", "--nonsense", "base.raw", "base.raw"],
      ["compare", "base.raw"],
    ].map(titled),
  )("%s", { concurrent: true }, async (_title, words) => {
    const far = words.includes("folder/far.qcow2") && (words[0] === "map" || words[1] === "--backing-chain");
    const ours = await spindle([...words, ...(far ? ["--allow-backing=."] : [])], { cwd: scratch.folder });
    const theirs = await run([qemuImg as string, ...words], { cwd: scratch.folder });
    expect({ stdout: ours.stdout, code: ours.code }).toEqual({ stdout: theirs.stdout, code: theirs.code });
    if (isSaidAlike(ours, theirs)) return;
    expect(ours.stderr.split("\n").length - 1, ours.stderr).toBe(ours.code === 0 || theirs.stderr === "" ? 0 : 1);
  });

  test.each(
    [
      ["-f", "qcow2", "new.qcow2", "1M"],
      ["-f", "qcow2", "-o", "cluster_size=4k,refcount_bits=64", "new.qcow2", "1.5G"],
      ["-f", "qcow2", "-o", "size=2M", "-o", "compat=v3", "new.qcow2"],
      ["-f", "qcow2", "-o", "lazy_refcounts=on", "new.qcow2", "1M"],
      ["-f", "qcow2", "-o", "compat=0.10,compression_type=zlib", "new.qcow2", "1000"],
      ["-f", "qcow2", "-o", "compression_type=zstd,cluster_size=2M", "new.qcow2", "0x100000"],
      ["-f", "qcow2", "-o", "preallocation=off,extended_l2=off", "new.qcow2", "0"],
      ["-f", "qcow2", "-o", "preallocation=metadata", "new.qcow2", "10M"],
      ["-f", "qcow2", "-o", "preallocation=metadata,compat=0.10,cluster_size=512", "new.qcow2", "1M"],
      ["-f", "qcow2", "-o", "preallocation=falloc", "new.qcow2", "10M"],
      ["-f", "qcow2", "-o", "preallocation=full,cluster_size=2M", "new.qcow2", "5M"],
      ["-f", "raw", "-o", "preallocation=falloc", "new.raw", "1M"],
      ["-f", "raw", "-o", "preallocation=full", "new.raw", "1M"],
      ["-f", "qcow2", "-b", "base.raw", "-F", "raw", "new.qcow2"],
      ["-f", "qcow2", "-b", "mid.qcow2", "-F", "qcow2", "new.qcow2", "20M"],
      ["-f", "qcow2", "-o", "backing_file=base.raw,backing_fmt=raw", "new.qcow2"],
      ["-f", "qcow2", "-b", "it's,a b.qcow2", "-F", "qcow2", "new.qcow2"],
      ["-f", "qcow2", "-u", "-b", "gone.raw", "-F", "raw", "new.qcow2", "1G"],
      ["-q", "-f", "qcow2", "new.qcow2", "1P"],
      ["-f", "qcow2", "-o", "preallocation=metadata", "new.qcow2", "3M"],
      ["-f", "qcow2", "-o", "preallocation=falloc", "new.qcow2", "3000k"],
      ["-f", "qcow2", "-o", "preallocation=full,encryption=off", "new.qcow2", "1M"],
      ["-f", "raw", "-o", "preallocation=falloc", "new.raw", "1M"],
      ["-f", "raw", "-o", "preallocation=full", "new.raw", "1M"],
      ["-f", "raw", "new.raw", "1000"],
      ["new.raw", "1M"],
    ].map(titled),
  )("create %s", async (_title, words) => {
    using own = new Scratch();
    for (const name of ["base.raw", "mid.qcow2", "it's,a b.qcow2"]) own.tool("cp", scratch.path(name), name);
    const created = await spindle(["create", ...words], { cwd: own.folder });
    const file = words.find((word) => word.startsWith("new.")) as string;
    const look = (): unknown => JSON.parse(own.tool(qemuImg as string, "info", "--output=json", file));
    const map = (): string => own.tool(qemuImg as string, "map", "--output=json", file);
    const isMapped = words.some((word) => word.startsWith("preallocation=") && !word.includes("512"));
    const { "actual-size": _mine, ...ours } = look() as Record<string, unknown>;
    const ourMap = isMapped ? map() : "";
    if (file.endsWith(".qcow2") && !words.includes("-u")) own.tool(qemuImg as string, "check", file);
    own.tool("rm", file);
    const expected = await run([qemuImg as string, "create", ...words], { cwd: own.folder });
    const { "actual-size": _theirs, ...theirs } = look() as Record<string, unknown>;
    expect(created).toEqual(expected);
    expect(ours).toEqual(theirs);
    if (isMapped) expect(ourMap).toBe(map());
  });

  test.each(
    [
      ["-f", "qcow2", "new.qcow2"],
      ["-f", "qcow2", "new.qcow2", "16E"],
      ["-f", "qcow2", "new.qcow2", "1E"],
      ["-f", "qcow2", "-b", "new.qcow2", "-F", "qcow2", "new.qcow2"],
      ["-f", "qcow2", "-u", "-b", "gone.raw", "-F", "raw", "new.qcow2"],
      ["-f", "raw", "-b", "base.raw", "-F", "raw", "new.raw"],
      ["-f", "nonsense", "new.qcow2", "1M"],
      ["-f", "qcow2", "-o", "nonsense=1", "new.qcow2", "1M"],
      ["-f", "raw", "-o", "nonsense=1", "new.qcow2", "1M"],
      ["-f", "raw", "-o", "preallocation=metadata", "new.qcow2", "1M"],
      ["-f", "qcow2", "-o", "preallocation=nonsense", "new.qcow2", "1M"],
      ["-f", "qcow2", "-o", "preallocation=metadata", "-b", "base.raw", "-F", "raw", "new.qcow2"],
      ["-f", "qcow2", "-o", "cluster_size=3k", "new.qcow2", "1M"],
      ["-f", "raw", "-o", "preallocation=nonsense", "new.raw", "1M"],
      ["-f", "qcow2", "-o", "lazy_refcounts=on,compat=0.10", "new.qcow2", "1M"],
      ["-f", "qcow2", "-o", "size=2M", "new.qcow2", "1M"],
      ["-f", "qcow2", "no-folder/new.qcow2", "1M"],
      ["-f", "qcow2"],
    ].map(titled),
  )("create refuses %s", { concurrent: true }, async (_title, words) => {
    // Of its own: both programs lock the file that they are about to make.
    using own = new Scratch();
    own.tool("cp", "--sparse=always", scratch.path("base.raw"), "base.raw");
    const ours = await spindle(["create", ...words], { cwd: own.folder });
    const theirs = await run([qemuImg as string, "create", ...words], { cwd: own.folder });
    expect(ours.code).toBe(theirs.code);
    expect(ours.stdout).toBe(theirs.stdout);
    if (!isSaidAlike(ours, theirs)) expect(ours.stderr).toMatch(/^spindle: .*\n$/);
  });

  test.each(
    [
      ...["create -f", "convert -O", "amend -f"].flatMap((command) =>
        ["qcow2", "raw", "bochs", "nonsense"].map((format) => `${command} ${format} -o help`),
      ),
      "create -f luks -o help",
      "create -f luks -o help new.luks",
      "create -f qcow2 -o cluster_size=4k,? new.qcow2 1M",
      "convert -O raw -o size=1 -o help base.raw new.raw",
      "amend -o help mid.qcow2",
      "create -f qcow2 -b base.raw new.qcow2",
      "create -f qcow2 -b gone.raw new.qcow2 1M",
      "create -f qcow2 -b gone.raw -F raw new.qcow2",
      "create -f qcow2 -u -b base.raw new.qcow2",
      "create -f qcow2 -F raw new.qcow2 1M",
      "create -f qcow2 -F raw new.qcow2",
      "create -f raw -F raw new.raw 1M",
      "create -f raw -b base.raw new.raw 1M",
      "create -f bochs new.raw 1M",
      "create -f qcow2 new.qcow2 12x",
      "create -f qcow2 new.qcow2 1.5",
      "measure",
      "measure --size 1G -f raw",
      "measure --size 1G base.raw",
      "measure base.raw base.raw",
      "measure --size -1",
      "measure --size 1x",
      "measure -o ,",
      "measure -l snapshot.foo=bar",
      "measure --size 7E",
      "measure --output=json --size 7E",
      "measure --output nonsense --size 1G",
      "measure -O qcow2 --size 7E",
      "measure -O bochs --size 1G",
      "convert -C -c base.raw new.raw",
      "convert -C -S 4k base.raw new.raw",
      "convert -C --salvage base.raw new.raw",
      "convert --target-is-zero base.raw new.raw",
      "convert -O qcow2 -B base.raw base.raw base.raw new.raw",
      "convert -O qcow2 -B base.raw base.raw new.raw",
    ].map((line) => titled(line.split(" "))),
  )("%s: word for word", async (_title, words) => {
    using own = new Scratch();
    for (const name of ["base.raw", "mid.qcow2"]) own.tool("cp", "--sparse=always", scratch.path(name), name);
    const ours = await spindle(["--as", "qemu-img", ...words], { cwd: own.folder });
    const theirs = await run([qemuImg as string, ...words], { cwd: own.folder });
    // QEMU does not end the line in which it tells of the format that it found.
    expect({ ...ours, stderr: ours.stderr.trimEnd() }).toEqual({ ...theirs, stderr: theirs.stderr.trimEnd() });
  });
});

/** A case and its name. */
function titled(words: readonly string[]): [title: string, words: readonly string[]] {
  return [words.join(" "), words];
}
