/**
 * The catalogue of images that mean harm, as docs/testing.md lists it, seen from outside: whatever an image says, looking at
 * it, checking, mapping, reading and writing it end in an error or a result within a second of the processor's time, in
 * 64 MiB, and without anything being opened that the backing policy does not allow.
 */
import { mkdirSync, readFileSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { KiB, MiB } from "@spindle/base";
import { createImage, openDisk } from "spindle";
import { describe, expect, test } from "vitest";
import type { Action, Report } from "./hostile-image-reader.ts";
import { run, Scratch, SPINDLE, spindle } from "./program.ts";

const ACTIONS: readonly Action[] = ["info", "check", "map", "read", "write"];
const CPU_MS_MAX = 1000;
const MEMORY_MAX = 64 * MiB;

const READER = new URL("./hostile-image-reader.ts", import.meta.url).pathname;
const [NODE = "", ...NODE_OPTIONS] = SPINDLE.slice(0, -1);

/** An image of 1 MiB with 4 KiB clusters, data in a few of them, and a snapshot. */
async function makeSound(path: string): Promise<Buffer> {
  await createImage(path, { format: "qcow2", size: MiB, options: { cluster_size: "4k" } });
  const disk = await openDisk(path);
  await disk.write(0, new Uint8Array(100 * KiB).fill(7));
  await disk.createSnapshot("one");
  await disk.write(500 * KiB, new Uint8Array(10 * KiB).fill(8));
  await disk.close();
  return readFileSync(path);
}

class Hostile extends Scratch {
  readonly images: string[] = [];
  readonly sound: string = this.path("sound.qcow2");

  add(name: string, bytes: Uint8Array, length = bytes.length): void {
    const path = this.path(name);
    writeFileSync(path, bytes);
    if (length > bytes.length) truncateSync(path, length);
    this.images.push(path);
  }

  /** Does this to all images, one after the other; everything when nothing is named. */
  async read(...actions: Action[]): Promise<Report> {
    writeFileSync(this.path("list.json"), JSON.stringify(this.images));
    const argv = [NODE, ...NODE_OPTIONS, "--expose-gc", READER, this.sound, this.path("list.json"), ...actions];
    const { stdout, stderr } = await run(argv, { cwd: this.folder });
    expect(stderr).toBe("");
    return JSON.parse(stdout) as Report;
  }
}

/** Every attempt ended in order and in time, and left nothing behind. */
function expectBounded({ attempts, grownBytes, leftOpen }: Report): void {
  const wrong = attempts.filter(({ code, cpuMs }) => !/^(E[A-Z0-9]+)?$/.test(code) || cpuMs > CPU_MS_MAX);
  expect(wrong).toEqual([]);
  expect(leftOpen).toBe(0);
  expect(grownBytes).toBeLessThan(MEMORY_MAX);
}

function patched(bytes: Buffer, ...changes: (readonly [offset: number, value: number | bigint])[]): Buffer {
  const copy = Buffer.from(bytes);
  for (const [offset, value] of changes)
    if (typeof value === "bigint") copy.writeBigUInt64BE(value, offset);
    else copy.writeUInt32BE(value, offset);
  return copy;
}

const WORDS = {
  version: 4,
  name: 16,
  cluster: 20,
  crypt: 32,
  l1: 36,
  table: 56,
  snapshots: 60,
  order: 96,
  header: 100,
};
const LONGS = { name: 8, size: 24, l1: 40, table: 48, snapshots: 64, incompatible: 72 };
const WORD_VALUES = [0, 65_537, 2 ** 31, 2 ** 32 - 1];
const LONG_VALUES = [0n, 2n ** 32n, 2n ** 53n - 1n, 2n ** 53n, 2n ** 64n - 1n];

/** The numbers of an entry of the snapshot table, which begins with the offset of an L1 table. */
const SNAPSHOT = { l1Offset: 0, l1Entries: 8, idBytes: 12, extraBytes: 36 };

test("any size in a header is bounded, in a short file and in a long one", { timeout: 120_000 }, async () => {
  using hostile = new Hostile();
  const sound = await makeSound(hostile.sound);
  const fields = [
    ...Object.entries(WORDS).flatMap(([name, at]) => WORD_VALUES.map((value) => [name, at, value] as const)),
    ...Object.entries(LONGS).flatMap(([name, at]) => LONG_VALUES.map((value) => [name, at, value] as const)),
  ];
  for (const [name, at, value] of fields) {
    const bytes = patched(sound, [at, value]);
    hostile.add(`${name}-${at}-${value}`, bytes);
    hostile.add(`${name}-${at}-${value}-long`, bytes, 64 * MiB);
  }
  const report = await hostile.read();
  expectBounded(report);
  const opened = report.attempts.filter(({ what, code }) => what === "info" && code === "").length;
  expect(opened / hostile.images.length).toBeGreaterThan(0.1);
});

test("tables of snapshots and bitmaps that have no end are bounded", { timeout: 120_000 }, async () => {
  using hostile = new Hostile();
  const sound = await makeSound(hostile.sound);
  const at = Number(sound.readBigUInt64BE(64));
  hostile.add("snapshots-many", patched(sound, [60, 65_536], [64, BigInt(MiB)]), 64 * MiB);
  for (const [name, offset] of Object.entries(SNAPSHOT))
    for (const value of [65_535, 2 ** 32 - 1])
      hostile.add(`snapshot-${name}-${value}`, patched(sound, [at + offset, value]), 64 * MiB);
  for (const count of [1, 65_535, 65_536])
    for (const size of [32n, 2n ** 31n, 2n ** 64n - 1n])
      for (const place of [2n ** 20n, 2n ** 53n]) {
        // The extension of bitmaps (qcow2 specification), and the bit that says it is valid.
        const extension = [
          [112, 0x23852875],
          [116, 24],
          [120, count],
          [124, 0],
          [128, size],
          [136, place],
        ] as const;
        const bytes = patched(sound, [88, 1n], ...extension, [144, 0n]);
        hostile.add(`bitmaps-${count}-${size}-${place}`, bytes, 64 * MiB);
      }
  // Each by itself: memory that one has used is not given back to the host at once.
  for (const action of ACTIONS) expectBounded(await hostile.read(action));
});

test("a small file that claims to be the largest disk is bounded", { timeout: 120_000 }, async () => {
  using hostile = new Hostile();
  await makeSound(hostile.sound);
  const path = hostile.path("huge");
  await createImage(path, { format: "qcow2", size: 2 ** 53 - 2 * MiB, options: { cluster_size: "2M" } });
  hostile.images.push(path);
  const report = await hostile.read();
  expectBounded(report);
  expect(report.attempts.filter(({ code }) => code !== "")).toEqual([]);
  // What cannot be is refused before anything is written.
  const { code, stderr } = await spindle(["convert", "-O", "qcow2", path, "out.qcow2"], { cwd: hostile.folder });
  expect([code, stderr]).toEqual([1, expect.stringMatching(/too large|too big/i)]);
});

/** Names that an image may bear for what it needs. The folder has a FIFO, a folder, and a link out of it. */
function names(port: number): string[] {
  return [
    ...[
      "../secret",
      "link-to-secret",
      "folder",
      "fifo",
      "/etc/passwd",
      "/proc/self/environ",
      "/dev/zero",
      "/dev/../dev/zero",
    ],
    ...[`nbd://127.0.0.1:${port}/x`, `http://127.0.0.1:${port}/`, `nbd:127.0.0.1:${port}`, "fd:0", "file:../secret"],
    `json:{"driver":"nbd","host":"127.0.0.1","port":"${port}"}`,
    'json:{"driver":"file","filename":"../secret"}',
    ...["name\0with-nul", "\\\\host\\share", "data:,x", `${"x/".repeat(511)}x`],
  ];
}

describe("what an image names", () => {
  test("is not opened where the policy does not allow it, and no address is called", { timeout: 120_000 }, async () => {
    using hostile = new Hostile();
    mkdirSync(hostile.path("in/folder"), { recursive: true });
    hostile.tool("mkfifo", "in/fifo");
    symlinkSync("../secret", hostile.path("in/link-to-secret"));
    writeFileSync(hostile.path("secret"), Buffer.alloc(MiB, 5));
    await makeSound(hostile.sound);
    let calls = 0;
    const server = createServer(() => {
      calls += 1;
    });
    const port = await listening(server);
    for (const [index, name] of names(port).entries()) {
      // As long as the name that takes its place.
      const standIn = "s".repeat(Math.min(200, name.length));
      const path = hostile.path(`in/backing-${index}.qcow2`);
      await createImage(path, {
        format: "qcow2",
        size: MiB,
        backing: { filename: standIn, format: "raw" },
        unsafe: true,
      });
      rename(path, standIn, name);
      hostile.images.push(path);
      if (name.length > standIn.length) continue;
      const apart = hostile.path(`in/data-${index}.qcow2`);
      await createImage(apart, { format: "qcow2", size: MiB, options: { data_file: standIn } });
      rename(apart, standIn, name);
      hostile.images.push(apart);
    }
    const report = await hostile.read();
    server.close();
    expectBounded(report);
    const opened = report.attempts.filter(({ what, code }) => !["info", "check"].includes(what) && code === "");
    expect(opened).toEqual([]);
    expect(report.attempts.filter(({ what, code }) => what === "info" && code !== "")).toEqual([]);
    expect(calls).toBe(0);
  });

  test("is followed through 200 images and no further", { timeout: 120_000 }, async () => {
    using hostile = new Hostile();
    await makeSound(hostile.sound);
    await createImage(hostile.path("0"), { format: "qcow2", size: MiB, options: { cluster_size: "4k" } });
    for (let depth = 1; depth <= 202; depth++) {
      const backing = { filename: String(depth - 1), format: "qcow2" };
      const options = { cluster_size: "4k" };
      await createImage(hostile.path(String(depth)), { format: "qcow2", size: MiB, backing, unsafe: true, options });
    }
    hostile.images.push(hostile.path("202"));
    const report = await hostile.read();
    expectBounded(report);
    expect(report.attempts.filter(({ what }) => what === "read")).toMatchObject([{ code: "EINVAL" }]);
  });
});

function listening(server: Server): Promise<number> {
  return new Promise((resolve) => {
    server.listen(0, "127.0.0.1", () => resolve((server.address() as { port: number }).port));
  });
}

/** Writes another name over the one that an image has. A longer one gets its length from the header. */
function rename(path: string, from: string, to: string): void {
  const bytes = readFileSync(path);
  const at = bytes.lastIndexOf(from);
  expect(at).toBeGreaterThan(0);
  bytes.write(to, at, "latin1");
  if (to.length > from.length) bytes.writeUInt32BE(to.length, 16);
  writeFileSync(path, bytes);
}

/** What images of formats begin with. */
const MAGICS: Readonly<Record<string, Buffer>> = {
  qcow2: Buffer.from("QFI\xfb\0\0\0\x03", "latin1"),
  luks: Buffer.from("LUKS\xba\xbe\0\x01", "latin1"),
  qcow: Buffer.from("QFI\xfb\0\0\0\x01", "latin1"),
  ...Object.fromEntries(
    ["QED\0", "KDMV", "COWD", "<<< Oracle VM VirtualBox", "conectix", "vhdxfile", "WithoutFreeSpace", "koly"].map(
      (text) => [text, Buffer.from(text, "latin1")],
    ),
  ),
  vmdk: Buffer.from("# Disk DescriptorFile\nversion=1\n"),
};

test.each(Object.entries(MAGICS))("a guest does not turn its raw disk into an image of %s", async (format, magic) => {
  using scratch = new Scratch();
  const path = scratch.path("disk");
  writeFileSync(path, Buffer.alloc(MiB));
  await using disk = await openDisk(path);
  const [head, last] = [magic.subarray(0, -1), magic.subarray(-1)];
  // In one piece, and byte by byte.
  const refused: unknown[] = [];
  for (const [at, bytes] of [
    [0, magic],
    [0, head],
    [head.length, last],
  ] as const)
    await disk.write(at, bytes).catch((error: unknown) => refused.push([at, (error as { code: string }).code]));
  const isKnown = format === "qcow2" || format === "luks";
  expect(refused).toEqual(
    isKnown
      ? [
          [0, "EPERM"],
          [head.length, "EPERM"],
        ]
      : [],
  );
  await disk.close();
  await using again = await openDisk(path);
  expect((await again.info()).format).toBe("raw");
});

test("the documentation's table of this catalogue names tests that there are", () => {
  const root = new URL("../../", import.meta.url);
  const page = readFileSync(new URL("docs/testing.md", root), "utf8");
  const named = [...page.matchAll(/^\| .* \| `([\w./-]+\.test\.ts)`: (.+?) \|$/gm)];
  expect(named.length).toBeGreaterThan(10);
  const missing = named.flatMap(([row, file = "", title = ""]) =>
    readFileSync(new URL(file, root), "utf8").includes(title) ? [] : [row],
  );
  expect(missing).toEqual([]);
});
