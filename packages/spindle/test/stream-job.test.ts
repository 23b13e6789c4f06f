import { writeFileSync } from "node:fs";
import { MiB } from "@spindle/base";
import { peer } from "@spindle/testkit/peers";
import { createImage, type Disk, openDisk, type StreamProgress } from "spindle";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Scratch } from "./scratch.ts";

const qemuImg = peer("qemu-img");
const BASE_BYTES: number = 16 * MiB;

describe("a stream job", () => {
  let scratch: Scratch;
  beforeEach(async () => {
    scratch = new Scratch();
    writeFileSync(scratch.path("base.raw"), Buffer.alloc(BASE_BYTES, "the base"));
    await overlay("top.qcow2", "base.raw", "raw");
  });
  afterEach(() => scratch[Symbol.dispose]());

  async function overlay(name: string, filename: string, format: string): Promise<void> {
    await createImage(scratch.path(name), { format: "qcow2", backing: { filename, format } });
  }
  const openTop = (): Promise<Disk> => openDisk(scratch.path("top.qcow2"));

  function expectSame(): void {
    if (qemuImg === undefined) return;
    scratch.tool(qemuImg, "check", "top.qcow2");
    scratch.tool(qemuImg, "compare", "top.qcow2", "base.raw");
  }

  it.each([0, 2])("is awaited for its result, with %i workers", async (workers) => {
    {
      await using disk = await openTop();
      const result = await disk.stream({ workers });
      expect(result).toMatchObject({ transferred: BASE_BYTES, size: BASE_BYTES, eta: 0 });
      expect(result.statistics).toMatchObject({ "bytes-copied": BASE_BYTES, errors: 0 });
      expect(await disk.info()).not.toHaveProperty("backing-filename");
    }
    expectSame();
  });

  it("is iterated over for its progress, and then awaited", async () => {
    await using disk = await openTop();
    const job = disk.stream({ speed: 40 * MiB });
    const seen: StreamProgress[] = [];
    for await (const progress of job) seen.push(progress);
    expect(seen.length).toBeGreaterThan(2);
    expect(seen.every(({ size }) => size === BASE_BYTES)).toBe(true);
    const transferred = seen.map((progress) => progress.transferred);
    expect(transferred).toEqual(transferred.toSorted((one, other) => one - other));
    expect(transferred.at(-1)).toBe(BASE_BYTES);
    expect((await job).transferred).toBe(BASE_BYTES);
  });

  it("gives a slow reader the newest progress, not a queue", async () => {
    await using disk = await openTop();
    let steps = 0;
    for await (const { transferred } of disk.stream()) {
      steps += 1;
      if (steps === 1) await new Promise((resolve) => setTimeout(resolve, 1500));
      else expect(transferred).toBe(BASE_BYTES);
    }
    expect(steps).toBeLessThanOrEqual(3);
  });

  it("lets requests through meanwhile", async () => {
    await using disk = await openTop();
    const job = disk.stream({ speed: 32 * MiB, chunk: MiB });
    const mine = Buffer.alloc(4096, 0xee);
    for (let offset = 0; offset < BASE_BYTES; offset += MiB) await disk.write(offset + 8192, mine);
    await job;
    for (let offset = 0; offset < BASE_BYTES; offset += MiB) {
      const read = Buffer.from(await disk.read(offset, MiB));
      const expected = Buffer.alloc(MiB, "the base");
      mine.copy(expected, 8192);
      expect(read.equals(expected)).toBe(true);
    }
  });

  it("has the disk's snapshots to itself, as in QEMU", async () => {
    await using disk = await openTop();
    await disk.createSnapshot("before");
    const job = disk.stream({ speed: MiB });
    await job.progress();
    const busy = { code: "EBUSY", message: expect.stringContaining("block device is in use by block job: stream") };
    await expect(disk.createSnapshot("during")).rejects.toMatchObject(busy);
    await expect(disk.applySnapshot("1")).rejects.toMatchObject(busy);
    await expect(disk.removeSnapshot("1")).rejects.toMatchObject(busy);
    await job.setSpeed(0);
    await job;
    await disk.removeSnapshot("1");
  });

  it("pauses, resumes and changes its speed", async () => {
    await using disk = await openTop();
    const job = disk.stream({ speed: MiB });
    await job.pause();
    await expect(job.pause()).rejects.toMatchObject({ code: "EPERM" });
    await job.setSpeed(0);
    await new Promise((resolve) => setTimeout(resolve, 150));
    const paused = await job.progress();
    expect(paused.status).toBe("paused");
    expect(paused.transferred).toBeLessThan(BASE_BYTES);
    await new Promise((resolve) => setTimeout(resolve, 150));
    expect((await job.progress()).transferred).toBe(paused.transferred);
    await job.resume();
    expect((await job).transferred).toBe(BASE_BYTES);
    await expect(job.setSpeed(-1)).rejects.toMatchObject({ name: "BlockError" });
  });

  it("rejects with ECANCELED when it is cancelled, and another goes on where it was", async () => {
    {
      await using disk = await openTop();
      const job = disk.stream({ speed: 4 * MiB });
      await disk.stream().then(
        () => expect.unreachable("two jobs on one image"),
        (error: unknown) => expect(error).toMatchObject({ code: "EBUSY" }),
      );
      for await (const { transferred } of job) if (transferred > 0) break;
      await job.cancel();
      await expect(job).rejects.toMatchObject({ name: "BlockError", code: "ECANCELED" });
      await job.cancel();
      expect(await disk.info()).toHaveProperty("backing-filename", "base.raw");
      expect((await disk.stream()).statistics["bytes-copied"]).toBeLessThan(BASE_BYTES);
    }
    expectSame();
  });

  it("rejects with the reason of the signal that aborts it, before and after it has begun", async () => {
    await using disk = await openTop();
    const reason = new Error("no time left");
    await expect(disk.stream({ signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    const controller = new AbortController();
    const job = disk.stream({ speed: MiB, signal: controller.signal });
    const iterated = (async () => {
      for await (const _progress of job) controller.abort(reason);
    })();
    await expect(iterated).rejects.toBe(reason);
    await expect(job).rejects.toBe(reason);
  });

  it("is cancelled when its disk is closed", async () => {
    const disk = await openTop();
    const job = disk.stream({ speed: MiB });
    await disk.close();
    await expect(job).rejects.toMatchObject({ code: "ECANCELED" });
    expectSame();
  });

  it("tells whoever watches that an error has paused it", async () => {
    await createImage(scratch.path("bad.qcow2"), { format: "qcow2", size: MiB });
    {
      await using bad = await openDisk(scratch.path("bad.qcow2"));
      await bad.write(0, new Uint8Array(MiB).fill(1));
    }
    await overlay("bad-top.qcow2", "bad.qcow2", "qcow2");
    // Cuts the data off: what the map points at is not there any more.
    scratch.tool("truncate", "-s", "400k", "bad.qcow2");
    await using disk = await openDisk(scratch.path("bad-top.qcow2"));
    const job = disk.stream({ onError: "stop" });
    for await (const progress of job) {
      if (progress.ioStatus === "ok") continue;
      expect(progress).toMatchObject({ ioStatus: "failed" });
      break;
    }
    await job.cancel();
    await expect(disk.stream()).rejects.toMatchObject({ code: "EIO" });
  });

  it("stops above its base, and keeps the name that the chain has for it", async () => {
    await overlay("middle.qcow2", "top.qcow2", "qcow2");
    await overlay("last.qcow2", "middle.qcow2", "qcow2");
    await using disk = await openDisk(scratch.path("last.qcow2"));
    await disk.stream({ base: scratch.path("top.qcow2") });
    expect(await disk.info()).toMatchObject({ "backing-filename": "top.qcow2", "backing-filename-format": "qcow2" });
    await expect(disk.stream({ base: "gone.qcow2" })).rejects.toMatchObject({ code: "ENOENT" });
  });
});
