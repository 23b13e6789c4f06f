/**
 * `spindle io` against qemu-io: the same commands on the same image give the same lines and the same exit code, and leave
 * the same disk. Only times differ, and the words of the help.
 */

import { spawn, spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { peer } from "@spindle/testkit/peers";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Scratch, SPINDLE } from "./program.ts";

const qemuImg = peer("qemu-img");
const qemuIo = peer("qemu-io");
const OURS = [...SPINDLE, "--as", "qemu-io"];

const IMAGES = ["disk.qcow2", "v2.qcow2", "over.qcow2", "base.raw", "disk.raw"];

/** The commands of one run, behind the options. */
type Case = readonly [title: string, options: string, ...commands: string[]];

const CASES: readonly Case[] = [
  [
    "reads and writes",
    "disk.qcow2",
    "write 0 64k",
    "write -P 0x11 3000 70000",
    "read -P 205 0 3000",
    "r 0 1k",
    "w 5 7",
  ],
  [
    "verifies patterns",
    "disk.qcow2",
    "write -P 1 0 4k",
    "read -P 1 0 4k",
    "read -P 2 0 4k",
    "read -P 1 -s 1k -l 2k 0 8k",
  ],
  [
    "verifies a part that is wrong",
    "disk.qcow2",
    "write -P 1 0 4k",
    "read -P 1 -s 2k -l 4k 0 8k",
    "read -P 1 -s 9k 0 8k",
  ],
  [
    "dumps bytes",
    "disk.qcow2",
    "write -P 65 0 20",
    "read -v 0 40",
    "read -v 7 5",
    "readv -v 1000 16 8",
    "aio_read -v 3 3",
    "aio_flush",
  ],
  [
    "says nothing when it is told so",
    "disk.qcow2",
    "write -q 0 64k",
    "read -q -P 1 0 64k",
    "discard -q 0 64k",
    "aio_write -q 0 1",
  ],
  [
    "uses vectors",
    "base.raw",
    "writev -P 3 1000 1k 2k 512",
    "readv -P 3 1000 1k 2560",
    "readv -P 4 1000 1k 2560",
    "readv 0 1 1 1",
  ],
  [
    "starts requests",
    "disk.qcow2",
    "aio_write -P 9 0 64k 64k",
    "aio_flush",
    "aio_read -P 9 0 128k",
    "aio_flush",
    "aio_read -P 8 0 1k",
    "aio_flush",
  ],
  [
    "starts requests that fail",
    "disk.qcow2",
    "aio_write 4M 64k",
    "aio_flush",
    "aio_read 4M 64k",
    "aio_flush",
    "aio_write -i 0 1",
    "aio_read -i 0 1",
  ],
  [
    "writes zeros",
    "disk.qcow2",
    "write 0 256k",
    "write -z 1000 100k",
    "write -z -u 128k 64k",
    "aio_write -z 192k 1k",
    "aio_flush",
    "read -v 990 20",
  ],
  [
    "writes zeros without a fallback",
    "disk.qcow2",
    "write 0 256k",
    "write -z -n 64k 64k",
    "write -z -n 1 64k",
    "write -zun 0 64k",
  ],
  [
    "has no zeros to write in old images",
    "v2.qcow2",
    "write 0 128k",
    "write -z 0 64k",
    "write -z -n 64k 64k",
    "write -z -u 0 64k",
    "map",
  ],
  [
    "writes zeros to a file",
    "disk.raw",
    "write 0 1M",
    "write -z 4k 8k",
    "write -z -u 64k 64k",
    "write -z -n 128k 4k",
    "read -P 0 4k 8k",
  ],
  [
    "writes compressed clusters",
    "disk.qcow2",
    "write -c 0 64k",
    "write -c -P 7 64k 128k",
    "read -P 7 100k 50k",
    "write -c 100 512",
    "write -c 512 512",
    "write -c 0 100",
    "map",
  ],
  [
    "compresses no file",
    "disk.raw",
    "write -c 0 64k",
    "write -b 0 64k",
    "read -b 0 64k",
    "write -b 1 64k",
    "read -b 0 1",
  ],
  [
    "writes what a file holds",
    "disk.qcow2",
    "write -s words 1000 100",
    "read -v 1000 40",
    "write -s empty 0 1",
    "write -s gone 0 1",
  ],
  [
    "reopens with what is so already",
    "over.qcow2",
    "reopen -o driver=qcow2",
    "reopen -o file.driver=file",
    "reopen -o backing.driver=raw",
    "reopen -o driver=raw",
    "reopen -o file.driver=raw",
    "reopen -o node-name=x",
    "reopen -o backing.node-name=x",
    "reopen -o cache.direct=x",
    "reopen -o auto-read-only=x",
    "reopen -c none -o cache.direct=on",
    "reopen",
  ],
  [
    "opens nodes by names",
    "",
    "open -o node-name=foo,backing.node-name=bar over.qcow2",
    "reopen -o node-name=foo,backing.node-name=bar",
    "read -P 0x42 0 1k",
    "close",
    "open -o backing.driver=nonsense over.qcow2",
  ],
  [
    "takes JSON in single quotes",
    "json:{'driver':'qcow2','file':{'driver':'qcow2','file':{'filename':'disk.qcow2','driver':'file'}}}",
    "length",
  ],
  ["takes no JSON that ends early", "json:{", "length"],
  [
    "has a disk of nothing",
    'json:{"driver":"null-co","size":65536,"read-zeroes":true}',
    "length",
    "info",
    "write 0 1k",
    "read -P 0 0 1k",
  ],
  ["cannot keep what it reads when it is read-only", "-r -C over.qcow2", "length"],
  ["keeps a raw image raw", "disk.raw", "write -s magic 0 512", "write -s magic 0 8", "write -P 1 0 1k"],
  ["writes what it likes to a raw image", "-f raw disk.raw", "write -s magic 0 512", "read -v 0 16"],
  ["forces writes", "disk.qcow2", "write -f 0 64k", "write -z -f 0 64k", "writev -f 1k 1k", "flush", "f"],
  ["discards", "disk.qcow2", "write 0 256k", "discard 64k 64k", "discard 100 70000", "d 0 64k", "map", "alloc 0 256k"],
  ["discards what shows a backing file", "over.qcow2", "write -P 5 0 128k", "discard 0 64k", "read -v 0 16", "map"],
  ["ignores discards", "-d ignore disk.qcow2", "write 0 128k", "discard 0 64k", "write -z -u 64k 64k", "map"],
  ["tells lengths", "disk.qcow2", "length", "l", "info", "i"],
  [
    "tells what a file is",
    "-f raw base.raw",
    "info",
    "length",
    "map",
    "alloc 0",
    "alloc 1M 1M",
    "alloc 100M",
    "alloc 0 100M",
  ],
  ["tells what an old image is", "v2.qcow2", "info"],
  ["lists what an image has", "over.qcow2", "map", "write 100k 1", "map", "alloc 64k", "a 0 1M", "alloc 0 128k"],
  [
    "refuses what is beyond the end",
    "disk.qcow2",
    "write 4M 1",
    "read 4M 1",
    "read 4194303 2",
    "discard 4M 1k",
    "write -z 5M 1k",
    "read 4M 0",
    "write 7E 1",
    "readv 4M 1",
    "writev 4M 1",
  ],
  [
    "refuses numbers",
    "disk.qcow2",
    "read a 1",
    "read 0 b",
    "read 0 1.5",
    "read 0 8E",
    "read 0 16E",
    "read 0 2G",
    "write 0 3G",
    "discard 0 2G",
    "read -1 0",
    "readv 0 2G",
    "writev 0 1G 1G",
    "alloc x",
    "alloc 0 y",
    "read 0x10 0X10",
  ],
  [
    "refuses patterns",
    "disk.qcow2",
    "read -P 256 0 1",
    "write -P -1 0 1",
    "write -P 0x 0 1",
    "write -P 010 0 1",
    "read -P 8 0 1",
    "write -P 08 0 1",
  ],
  [
    "refuses combinations",
    "disk.qcow2",
    "write -b -z 0 1k",
    "write -f -c 0 1k",
    "write -n 0 1",
    "write -u 0 1",
    "write -z -P 1 0 1",
    "write -P 1 -s x 0 1",
    "aio_write -u 0 1",
    "aio_write -z 0 1 1",
  ],
  [
    "refuses counts of arguments",
    "disk.qcow2",
    "read",
    "read 0",
    "write 0",
    "alloc",
    "alloc 1 2 3",
    "map 1",
    "length 1",
    "break a",
    "sleep",
    "close 1",
    "truncate",
    "reopen 1 2 x 3",
  ],
  ["refuses unknown commands", "disk.qcow2", "reada 0 1", "help nonsense", ""],
  ["has no breakpoints", "disk.qcow2", "break l2_load tag", "resume tag", "remove_break tag"],
  [
    "writes nothing that is read-only",
    "-r disk.qcow2",
    "write 0 1",
    "aio_write 0 1",
    "writev 0 1",
    "discard 0 64k",
    "truncate 1M",
    "read -P 0 0 64k",
    "flush",
  ],
  [
    "closes and opens",
    "disk.qcow2",
    "write 0 1",
    "close",
    "read 0 1",
    "open gone",
    "open -r disk.qcow2",
    "write 0 1",
    "open disk.raw",
    "c",
    "o -o driver=raw disk.qcow2",
    "length",
    "close",
    "open -t nonsense disk.qcow2",
    "open -d x disk.qcow2",
    "open -i x disk.qcow2",
  ],
  ["opens without a file", "", "length", "read 0 1", "open disk.qcow2", "length", "close"],
  [
    "opens in other ways",
    "-t writeback disk.qcow2",
    "write 0 1",
    "reopen -r",
    "write 0 1",
    "reopen -w",
    "write 0 1",
    "reopen -c writethrough",
    "write -P 9 0 1",
    "reopen -r -w",
    "reopen -c x",
    "reopen -o foo=bar",
    "write 0 1",
    "reopen -r -o read-only=on",
  ],
  ["keeps a snapshot apart", "-s disk.qcow2", "write -P 7 0 128k", "read -P 7 0 128k", "length"],
  ["copies what it reads", "-C over.qcow2", "read 0 64k", "read 1M 1k", "map"],
  ["takes modes of cache and requests", "-n -m -k -i threads -t none disk.qcow2", "write 0 1k"],
  [
    "takes options of nodes",
    "--image-opts driver=qcow2,file.driver=file,file.filename=disk.qcow2",
    "write 0 1",
    "info",
  ],
  ["takes options without a driver", "--image-opts file.filename=disk.qcow2,read-only=on", "write 0 1", "length"],
  ["takes options that say nothing", "--image-opts read-only=on", "length"],
  ["takes JSON", 'json:{"driver":"raw","file":{"driver":"file","filename":"disk.qcow2"}}', "length", "read -v 0 16"],
  [
    "takes JSON with dotted keys",
    'json:{"driver":"qcow2","file.driver":"file","file.filename":"disk.qcow2"}',
    "length",
  ],
  ["takes a protocol", "-f qcow2 file:disk.qcow2", "length"],
  ["knows no other protocol", "nonsense:disk.qcow2", "length"],
  ["opens nothing that is missing", "gone.qcow2", "length"],
  ["opens nothing of another format", "-f qcow2 disk.raw", "length"],
  ["knows no such format", "-f nonsense disk.raw", "length"],
  ["knows no such cache mode", "-t nonsense disk.qcow2", "length"],
  ["knows no such discard mode", "-d nonsense disk.qcow2", "length"],
  ["knows no such way of requests", "-i nonsense disk.qcow2", "length"],
  [
    "resizes a file",
    "-f raw disk.raw",
    "truncate 2M",
    "length",
    "truncate 1M",
    "length",
    "truncate -m nonsense 1M",
    "truncate x",
  ],
  ["ends when it is told", "disk.qcow2", "write 0 1", "quit", "write 0 1"],
  ["sleeps", "disk.qcow2", "sleep 1", "sleep 0x1", "sleep x", "sleep -1"],
  ["raises signals that are none", "disk.qcow2", "write 0 1", "sigraise 0", "sigraise 66", "sigraise x"],
  ["dies of signals", "disk.qcow2", "write 0 1", "sigraise 9", "write 0 1"],
  ["dies of softer signals", "disk.qcow2", "write 0 1", "sigraise 15", "write 0 1"],
  [
    "holds its output back until it ends",
    "disk.qcow2",
    ...Array.from({ length: 200 }, () => ["alloc 0 64k", "nonsense"]).flat(),
  ],
];

describe.skipIf(qemuImg === undefined || qemuIo === undefined)("as qemu-io", () => {
  const scratch = new Scratch();
  const img = (...argv: string[]): string => scratch.tool(qemuImg as string, ...argv);

  beforeAll(() => {
    img("create", "-f", "qcow2", "disk.qcow2", "4M");
    img("create", "-f", "qcow2", "-o", "compat=0.10", "v2.qcow2", "4M");
    img("create", "-f", "raw", "base.raw", "4M");
    img("create", "-f", "raw", "disk.raw", "4M");
    scratch.tool(qemuIo as string, "-f", "raw", "-c", "write -P 0x42 0 2M", "base.raw");
    img("create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "over.qcow2");
    scratch.tool(qemuIo as string, "-c", "write -P 0x43 64k 64k", "-c", "write -z 1M 64k", "over.qcow2");
    writeFileSync(scratch.path("words"), "every good boy deserves favour");
    writeFileSync(scratch.path("empty"), "");
    writeFileSync(scratch.path("magic"), Uint8Array.of(0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3));
  });
  afterAll(() => scratch[Symbol.dispose]());

  test.each(CASES)("%s", (title, options, ...commands) => {
    const words = [...optionWords(options), ...commands.flatMap((command) => ["-c", command])];
    const ours = runIn(folderOf(scratch, `ours ${title}`), OURS, words);
    const theirs = runIn(folderOf(scratch, `theirs ${title}`), [qemuIo as string], words);
    expect(ours).toEqual(theirs);
    for (const image of IMAGES) expectSameDisk(scratch, title, image);
  });

  test("asks for commands", () => {
    const input = "write 0 64k\n\nread  -P  0xcd 0   64k\nnonsense\nlength\n";
    const ours = runIn(scratch.folder, OURS, ["disk.qcow2"], input);
    expect(ours).toEqual(runIn(scratch.folder, [qemuIo as string], ["disk.qcow2"], input));
    expect(ours.output).toContain("qemu-io> 4 MiB\nqemu-io> ");
    const quit = runIn(scratch.folder, OURS, ["disk.qcow2"], "quit\nlength\n");
    expect(quit).toEqual(runIn(scratch.folder, [qemuIo as string], ["disk.qcow2"], "quit\nlength\n"));
  });

  test("is qemu-io when a link of that name is started", () => {
    symlinkSync(SPINDLE.at(-1) as string, scratch.path("qemu-io"));
    const linked = [...SPINDLE.slice(0, -1), scratch.path("qemu-io")];
    expect(runIn(scratch.folder, linked, ["gone"]).output).toBe(
      "qemu-io: can't open device gone: Could not open 'gone': No such file or directory\n",
    );
  });

  test("dies of abort with nothing of its output", () => {
    const words = ["-c", "write 0 1", "-c", "abort", "disk.qcow2"];
    expect(runIn(scratch.folder, OURS, words)).toMatchObject({ status: null, signal: "SIGABRT", output: "" });
  });

  test("writes and reads long ranges in bounded memory", async () => {
    img("create", "-f", "raw", "large.raw", "8G");
    const [node = "", ...argv] = OURS;
    const child = spawn(node, [...argv, "-f", "raw", scratch.path("large.raw")], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    child.stdin.write(
      "write -P 3 0 128M\nread -P 3 0 128M\nread -P 0 1G 512M\naio_read 4G 128M 128M\naio_flush\nsleep 1\n",
    );
    let output = "";
    for await (const text of child.stdout.setEncoding("utf8")) {
      output += text;
      if (output.split("qemu-io> ").length > 6) break;
    }
    const peak = /VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${child.pid}/status`, "latin1"))?.[1];
    child.kill();
    expect(output).not.toContain("failed");
    expect(Number(peak)).toBeLessThan(200 * 1024);
  });
});

function optionWords(options: string): string[] {
  return options.startsWith("json:") ? [options] : options.split(" ").filter((word) => word !== "");
}

/** A folder with images of its own. */
function folderOf(scratch: Scratch, title: string): string {
  const folder = scratch.path(title);
  mkdirSync(folder);
  for (const name of [...IMAGES, "words", "empty", "magic"]) copyFileSync(scratch.path(name), `${folder}/${name}`);
  return folder;
}

/** Standard output and errors go into one file, as they do in scripts. */
function runIn(cwd: string, program: readonly string[], words: readonly string[], input = "") {
  const merged = ["-c", 'exec "$@" 2>&1', "sh", ...program, ...words];
  const { stdout, status, signal } = spawnSync("sh", merged, { cwd, input, encoding: "utf8" });
  return { output: withoutTimes(stdout), status, signal };
}

/** Times and rates, and the words of the help, are each program's own. */
function withoutTimes(text: string): string {
  return text
    .replace(/(\d+ ops; ).*/g, "$1...")
    .replace(/^(\d+,\d+,).*$/gm, "$1...")
    .replace(/^([a-z_]+ \[.*\].*) -- .*$/gm, "$1 -- ...");
}

function expectSameDisk(scratch: Scratch, title: string, image: string): void {
  const [ours, theirs] = ["ours", "theirs"].map((who) => scratch.path(`${who} ${title}/${image}`)) as [string, string];
  expect(existsSync(ours)).toBe(true);
  const format = image.endsWith(".raw") ? "raw" : "qcow2";
  scratch.tool(qemuImg as string, "compare", "-f", format, "-F", format, ours, theirs);
  if (format === "qcow2") scratch.tool(qemuImg as string, "check", ours);
}
