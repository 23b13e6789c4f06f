/**
 * Images and hosts that mean harm or fail: `spindle stream` ends with one clear line, an exit code that is not 0, no stack
 * trace, and an overlay that `qemu-img check` finds free of corruption and that still shows what it showed before.
 */
import { spawnSync } from "node:child_process";
import { closeSync, openSync, readSync, truncateSync, writeFileSync, writeSync } from "node:fs";
import { KiB, MiB } from "@spindle/base";
import { peer } from "@spindle/testkit/peers";
import { describe, expect, test } from "vitest";
import { isOneClearLine, type Outcome, type RunOptions, Scratch, spindle } from "./program.ts";

const qemuImg = peer("qemu-img");
const qemuIo = peer("qemu-io");

class Images extends Scratch {
  img(...argv: string[]): string {
    return this.tool(qemuImg as string, ...argv);
  }

  io(file: string, ...commands: string[]): string {
    return this.tool(qemuIo as string, ...commands.flatMap((command) => ["-c", command]), file);
  }

  overlay(name: string, base: string, format: string, ...rest: string[]): void {
    this.img("create", "-q", "-f", "qcow2", "-b", base, "-F", format, name, ...rest);
  }

  /** Overwrites bytes of a file. */
  patch(name: string, offset: number, bytes: Uint8Array): void {
    const fd = openSync(this.path(name), "r+");
    writeSync(fd, bytes, 0, bytes.length, offset);
    closeSync(fd);
  }

  /** A big-endian number of 64 bits. */
  u64(name: string, offset: number): number {
    const fd = openSync(this.path(name), "r");
    const bytes = Buffer.alloc(8);
    readSync(fd, bytes, 0, 8, offset);
    closeSync(fd);
    return Number(bytes.readBigUInt64BE());
  }

  /** Where the entry of the first guest cluster stands in a qcow2 image. */
  firstL2Entry(name: string): number {
    return this.u64(name, this.u64(name, 40)) % 2 ** 56;
  }

  stream(file: string, ...argv: string[]): Promise<Outcome> {
    return spindle(["stream", ...argv, file], { cwd: this.folder });
  }

  /** Nothing but leaks may be wrong with an image. */
  expectSound(file: string): void {
    const { status, stdout, stderr } = spawnSync(qemuImg as string, ["check", "-f", "qcow2", "-U", file], {
      cwd: this.folder,
      encoding: "utf8",
    });
    expect([0, 3], `${stdout}${stderr}`).toContain(status);
  }
}

function expectRefusal(outcome: Outcome, reason: RegExp): void {
  expect(outcome.stderr).toMatch(reason);
  expect(isOneClearLine(outcome.stderr), outcome.stderr).toBe(true);
  expect(outcome.code).toBe(1);
}

function bigEndian64(value: bigint): Uint8Array {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(value);
  return bytes;
}

/** A zstd frame of so many zeros (RFC 8878, 3.1.1): blocks that each say 128 KiB times "a zero byte". */
function zstdBomb(length: number): Buffer {
  const blockBytes = 128 * KiB;
  const count = length / blockBytes;
  // Magic number; no content size, no dictionary, no checksum; a window of 8 MiB.
  const head = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x00, 13 * 8]);
  const blocks = Buffer.alloc(count * 4);
  for (let index = 0; index < count; index++) {
    const isLast = index === count - 1 ? 1 : 0;
    const typeRunLength = 1;
    blocks.writeUIntLE(isLast + typeRunLength * 2 + blockBytes * 8, index * 4, 3);
  }
  return Buffer.concat([head, blocks]);
}

describe.skipIf(qemuImg === undefined || qemuIo === undefined)("bad input", () => {
  test.each([0, 3, 60, 103])("a header that ends after %i bytes", async (length) => {
    using images = new Images();
    images.img("create", "-q", "-f", "qcow2", "top.qcow2", "1M");
    truncateSync(images.path("top.qcow2"), length);
    for (const argv of [["stream"], ["info"], ["map"]])
      expectRefusal(await spindle([...argv, "-f", "qcow2", "top.qcow2"], { cwd: images.folder }), /top\.qcow2/);
  });

  test("a cycle in the chain", async () => {
    using images = new Images();
    images.img("create", "-q", "-f", "qcow2", "one.qcow2", "1M");
    images.overlay("two.qcow2", "one.qcow2", "qcow2");
    images.img("rebase", "-u", "-b", "two.qcow2", "-F", "qcow2", "one.qcow2");
    expectRefusal(await images.stream("two.qcow2"), /infinite loop/);
    const chain = await spindle(["info", "--backing-chain", "two.qcow2"], { cwd: images.folder });
    expectRefusal(chain, /infinite loop/);
  });

  test("a missing backing file", async () => {
    using images = new Images();
    images.overlay("top.qcow2", "gone.raw", "raw", "-u", "1M");
    expectRefusal(await images.stream("top.qcow2"), /gone\.raw.*No such file/);
  });

  test("a backing file outside of the folder is not opened, and the line says how to allow it", async () => {
    using images = new Images();
    images.tool("mkdir", "inner");
    writeFileSync(images.path("secret.raw"), Buffer.alloc(MiB, 7));
    images.overlay("inner/top.qcow2", "../secret.raw", "raw");
    expectRefusal(await images.stream("inner/top.qcow2"), /--allow-backing=/);
    expect((await images.stream("inner/top.qcow2", "--allow-backing", ".")).code).toBe(0);
  });

  test.each([
    ["shorter", 3 * MiB + 512],
    ["longer", 9 * MiB],
  ])("a backing file that is %s is streamed as it shows", async (_kind, length) => {
    using images = new Images();
    writeFileSync(images.path("base.raw"), Buffer.alloc(length, 5));
    images.overlay("top.qcow2", "base.raw", "raw", "6M");
    images.img("convert", "-O", "raw", "top.qcow2", "before.raw");
    expect(await images.stream("top.qcow2")).toMatchObject({ code: 0, stderr: "" });
    images.img("compare", "top.qcow2", "before.raw");
    images.img("check", "top.qcow2");
  });

  test("a backing file that gets shorter while it is read", async () => {
    using images = new Images();
    writeFileSync(images.path("base.raw"), Buffer.alloc(64 * MiB, 5));
    images.overlay("top.qcow2", "base.raw", "raw");
    const shrink: RunOptions["started"] = (child) => {
      child.stdout?.once("data", () => truncateSync(images.path("base.raw"), 4 * MiB));
    };
    const argv = ["stream", "--speed", "16M", "--progress=json", "top.qcow2"];
    const outcome = await spindle(argv, { cwd: images.folder, started: shrink });
    expectRefusal(outcome, /base\.raw.*(shorter|end)|end of .*base\.raw/);
    images.expectSound("top.qcow2");
  });

  test.each([
    ["disk size", 24],
    ["backing file name offset", 8],
    ["L1 table offset", 40],
    ["refcount table offset", 48],
  ])("a %s above 2^53", async (_field, offset) => {
    using images = new Images();
    images.img("create", "-q", "-f", "qcow2", "base.qcow2", "1M");
    images.overlay("top.qcow2", "base.qcow2", "qcow2");
    images.patch("base.qcow2", offset, bigEndian64(2n ** 53n + 512n));
    expectRefusal(await images.stream("top.qcow2"), /base\.qcow2/);
    expectRefusal(await spindle(["info", "base.qcow2"], { cwd: images.folder }), /base\.qcow2/);
  });

  test.each([
    ["data", 2n ** 63n],
    ["compressed data", 2n ** 62n],
  ])("an L2 entry of %s that points beyond the end of the file", async (_kind, flag) => {
    using images = new Images();
    images.img("create", "-q", "-f", "qcow2", "base.qcow2", "4M");
    images.io("base.qcow2", "write -P 3 0 1M");
    images.overlay("top.qcow2", "base.qcow2", "qcow2");
    images.patch("base.qcow2", images.firstL2Entry("base.qcow2"), bigEndian64(flag + 2n ** 40n));
    expectRefusal(await images.stream("top.qcow2"), /end of the (image )?file/);
    images.expectSound("top.qcow2");
  });

  test("a zstd frame that inflates to more than its cluster", async () => {
    using images = new Images();
    // About half of it can be compressed away, so that the frame in its place has room.
    const half = Buffer.from(Array.from({ length: MiB }, () => Math.floor(Math.random() * 16)));
    writeFileSync(images.path("data.raw"), half);
    images.img("convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", "data.raw", "base.qcow2");
    images.overlay("top.qcow2", "base.qcow2", "qcow2");
    const bomb = zstdBomb(256 * MiB);
    expect(bomb.length).toBeLessThan(28_000);
    // The entry holds the offset in its low bits: for clusters of 64 KiB, 54 of them.
    const place = BigInt.asUintN(54, BigInt(images.u64("base.qcow2", images.firstL2Entry("base.qcow2"))));
    images.patch("base.qcow2", Number(place), bomb);
    expectRefusal(await images.stream("top.qcow2"), /compress|zstd/i);
    images.expectSound("top.qcow2");
  });

  test("a worker that dies has its copies done by others", async () => {
    using images = new Images();
    writeFileSync(images.path("base.raw"), Buffer.alloc(96 * MiB, 5));
    images.overlay("top.qcow2", "base.raw", "raw");
    const killer = new URL("worker-killer.js", import.meta.url).href;
    const env = { NODE_OPTIONS: `--import=${killer}` };
    const argv = ["stream", "--speed", "80M", "--workers", "2", "top.qcow2"];
    const outcome = await spindle(argv, { cwd: images.folder, env });
    expect(outcome).toEqual({ code: 0, stdout: "workers killed: 1\n", stderr: "" });
    images.img("check", "top.qcow2");
    images.img("compare", "top.qcow2", "base.raw");
  });

  test("errors of the command line are one line, too", async () => {
    using images = new Images();
    expectRefusal(
      await spindle(["stream", "--on-error=maybe", "a"], { cwd: images.folder }),
      /must be used with report/,
    );
    for (const argv of [["stream"], ["stream", "--chunk", "x", "a"], ["daemon"]])
      expectRefusal(await spindle(argv, { cwd: images.folder }), /spindle help/);
  });
});

/** Whether a file system of a chosen size can be mounted. */
const canMount = process.platform === "linux" && process.getuid?.() === 0 && tryMount();

function tryMount(): boolean {
  using scratch = new Scratch();
  const mounted = spawnSync("mount", ["-t", "tmpfs", "tmpfs", scratch.folder]).status === 0;
  if (mounted) spawnSync("umount", [scratch.folder]);
  else process.stderr.write("\n*** no file system can be mounted: the tests of full disks are SKIPPED ***\n");
  return mounted;
}

describe.skipIf(qemuImg === undefined || qemuIo === undefined || !canMount)("a full disk", () => {
  const DATA_BYTES = 6 * MiB;
  /** What the overlay takes when all is copied: header, refcount table and block, L2 table, and a page of the L1 table. */
  const NEEDED_BYTES = DATA_BYTES + 4 * 65_536 + 4096;

  test.each([
    ["in the middle", 3 * MiB, "report"],
    ["in the middle, with --on-error=stop", 3 * MiB, "stop"],
    ["in the middle, with --on-error=enospc", 3 * MiB, "enospc"],
    ["just before the end", NEEDED_BYTES - 100_000, "report"],
    ["with the last page", NEEDED_BYTES - 4096, "report"],
  ])("%s", async (_when, size, onError) => {
    using images = new Images();
    images.tool("mkdir", "small");
    images.tool("mount", "-t", "tmpfs", "-o", `size=${size}`, "tmpfs", "small");
    try {
      const fill = Buffer.from(Array.from({ length: DATA_BYTES }, (_, index) => ((index * 7919) % 255) + 1));
      writeFileSync(images.path("base.raw"), fill);
      images.overlay("small/top.qcow2", images.path("base.raw"), "raw");
      const outcome = await images.stream("small/top.qcow2", "--allow-backing", ".", "--on-error", onError);
      expectRefusal(outcome, /[Nn]o space left/);
      images.expectSound("small/top.qcow2");
      images.img("compare", "-U", "small/top.qcow2", "base.raw");
      // With room again, another stream goes on.
      images.tool("mount", "-o", "remount,size=20M", "small");
      expect(await images.stream("small/top.qcow2", "--allow-backing", ".")).toMatchObject({ code: 0, stderr: "" });
      images.img("check", "small/top.qcow2");
      images.img("compare", "small/top.qcow2", "base.raw");
    } finally {
      spawnSync("umount", [images.path("small")]);
    }
  });
});
