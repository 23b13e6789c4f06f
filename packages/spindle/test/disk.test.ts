import { writeFileSync } from "node:fs";
import { KiB, MiB } from "@spindle/base";
import { peer } from "@spindle/testkit/peers";
import { createImage, type Disk, openDisk } from "spindle";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Scratch } from "./scratch.ts";

const qemuImg = peer("qemu-img");

/** A byte pattern that tells offsets apart. */
function pattern(length: number, seed: number): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => (index * 31 + seed * 7 + Math.floor(index / 256)) % 251);
}

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const collected: T[] = [];
  for await (const item of items) collected.push(item);
  return collected;
}

describe("a disk", () => {
  let scratch: Scratch;
  beforeEach(() => {
    scratch = new Scratch();
  });
  afterEach(() => scratch[Symbol.dispose]());

  async function newDisk(size: number = 4 * MiB): Promise<Disk> {
    await createImage(scratch.path("disk.qcow2"), { format: "qcow2", size });
    return await openDisk(scratch.path("disk.qcow2"));
  }

  it("holds what was written, across closing", async () => {
    const bytes = pattern(100_001, 1);
    {
      await using disk = await newDisk();
      expect(disk.length).toBe(4 * MiB);
      await disk.write(65_000, bytes);
      await disk.write(3 * MiB, pattern(512, 2), { fua: true });
      await disk.flush();
    }
    await using disk = await openDisk(scratch.path("disk.qcow2"), { format: "qcow2", readOnly: true });
    expect(Buffer.from(await disk.read(65_000, bytes.length)).equals(bytes)).toBe(true);
    const target = new Uint8Array(512);
    expect(await disk.read(3 * MiB, target)).toBe(target);
    expect(Buffer.from(target).equals(pattern(512, 2))).toBe(true);
    expect(await disk.read(2 * MiB, 3)).toEqual(new Uint8Array(3));
    if (qemuImg !== undefined) scratch.tool(qemuImg, "check", "disk.qcow2");
  });

  it("reads zeros where zeros were written and, without a chain, where it was discarded", async () => {
    await using disk = await newDisk();
    await disk.write(0, pattern(256 * KiB, 3));
    await disk.writeZeroes(1000, 70_000, { mayUnmap: true });
    await disk.discard(128 * KiB, 64 * KiB);
    const expected = Buffer.from(pattern(256 * KiB, 3));
    expected.fill(0, 1000, 71_000).fill(0, 128 * KiB, 192 * KiB);
    expect(Buffer.from(await disk.read(0, 256 * KiB)).equals(expected)).toBe(true);
  });

  it("takes many requests side by side", async () => {
    await using disk = await newDisk();
    const offsets = Array.from({ length: 64 }, (_, index) => index * 60_000);
    await Promise.all(offsets.map((offset, index) => disk.write(offset, pattern(50_000, index))));
    const read = await Promise.all(offsets.map((offset) => disk.read(offset, 50_000)));
    read.forEach((bytes, index) => {
      expect(Buffer.from(bytes).equals(pattern(50_000, index))).toBe(true);
    });
  });

  it("refuses what lies beyond its end, and writes to a read-only disk", async () => {
    {
      await using disk = await newDisk();
      for (const bad of [disk.length, -1, 0.5, Number.MAX_SAFE_INTEGER, Number.NaN])
        await expect(disk.read(bad, 1)).rejects.toMatchObject({ name: "BlockError", code: "EINVAL" });
      await expect(disk.read(0, 2 ** 50)).rejects.toMatchObject({ code: "EINVAL" });
      await expect(disk.write(disk.length - 1, new Uint8Array(2))).rejects.toMatchObject({ code: "EINVAL" });
    }
    await using disk = await openDisk(scratch.path("disk.qcow2"), { readOnly: true });
    await expect(disk.write(0, new Uint8Array(1))).rejects.toMatchObject({ code: "EROFS" });
  });

  it("lists its runs", async () => {
    writeFileSync(scratch.path("base.raw"), pattern(MiB, 4));
    const image = { format: "qcow2", backing: { filename: "base.raw", format: "raw" }, size: 2 * MiB };
    await createImage(scratch.path("top.qcow2"), image);
    await using disk = await openDisk(scratch.path("top.qcow2"));
    await disk.write(64 * KiB, pattern(64 * KiB, 5));
    const runs = await collect(disk.map());
    expect(
      runs.map(({ start, length, depth, data, zero, present }) => [start, length, depth, data, zero, present]),
    ).toEqual([
      [0, 64 * KiB, 1, true, false, true],
      [64 * KiB, 64 * KiB, 0, true, false, true],
      [128 * KiB, MiB - 128 * KiB, 1, true, false, true],
      [MiB, MiB, 0, false, true, false],
    ]);
    const part = await collect(disk.map({ offset: 100 * KiB, length: 2 * KiB }));
    expect(part).toMatchObject([{ start: 100 * KiB, length: 2 * KiB, depth: 0 }]);
    expect(await disk.info()).toMatchObject({
      format: "qcow2",
      "backing-filename": "base.raw",
      "virtual-size": 2 * MiB,
    });
  });

  it("does nothing for a signal that has been aborted, and rejects with its reason", async () => {
    await using disk = await newDisk();
    const signal = AbortSignal.abort(new Error("changed my mind"));
    await expect(disk.write(0, pattern(512, 1), { signal })).rejects.toThrow("changed my mind");
    await expect(openDisk(scratch.path("disk.qcow2"), { signal })).rejects.toThrow("changed my mind");
    await expect(createImage(scratch.path("no.raw"), { format: "raw", size: 1, signal })).rejects.toThrow("changed");
    expect(await disk.read(0, 512)).toEqual(new Uint8Array(512));
  });

  it("completes what is in flight when it is closed, and refuses what comes later", async () => {
    const disk = await newDisk(16 * MiB);
    const writes = Array.from({ length: 240 }, (_, index) => disk.write(index * 64 * KiB, pattern(64 * KiB, index)));
    const closed = disk.close();
    await expect(disk.read(0, 1)).rejects.toMatchObject({ code: "ENOMEDIUM" });
    await closed;
    await Promise.all(writes);
    await disk.close();
    expect(() => disk.stream()).toThrow(/is closed/);
    await using again = await openDisk(scratch.path("disk.qcow2"));
    expect(Buffer.from(await again.read(239 * 64 * KiB, 64 * KiB)).equals(pattern(64 * KiB, 239))).toBe(true);
  });
});

describe("opening a disk", () => {
  it("names the file that it could not open", async () => {
    using scratch = new Scratch();
    const missing = scratch.path("missing.qcow2");
    await expect(openDisk(missing)).rejects.toMatchObject({
      code: "ENOENT",
      message: expect.stringContaining(missing),
    });
    writeFileSync(scratch.path("text"), "this is no image");
    const open = openDisk(scratch.path("text"), { format: "qcow2" });
    await expect(open).rejects.toMatchObject({ code: "EINVAL", message: expect.stringContaining("Could not open") });
    await expect(openDisk(scratch.path("text"), { format: "delay" })).rejects.toMatchObject({ code: "EINVAL" });
  });

  it("opens backing files only where it is allowed", async () => {
    using scratch = new Scratch();
    scratch.tool("mkdir", "inner");
    writeFileSync(scratch.path("base.raw"), pattern(MiB, 1));
    const backing = { filename: "../base.raw", format: "raw" };
    await createImage(scratch.path("inner/top.qcow2"), { format: "qcow2", backing });
    await expect(openDisk(scratch.path("inner/top.qcow2"))).rejects.toMatchObject({ code: "EACCES" });
    await using disk = await openDisk(scratch.path("inner/top.qcow2"), { allowBacking: [scratch.folder] });
    expect(Buffer.from(await disk.read(5, 100)).equals(pattern(MiB, 1).subarray(5, 105))).toBe(true);
  });
});
