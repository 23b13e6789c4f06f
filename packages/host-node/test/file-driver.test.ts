import * as fs from "node:fs";
import { join } from "node:path";
import { type Co, isBlockError, SeededRandom } from "@spindle/base";
import { IoVector } from "@spindle/block";
import { randomBytes } from "@spindle/testkit";
import { describe, expect, it } from "vitest";
import { createFile, fileDriver, linuxCalls } from "../src/index.ts";
import { describeFileDriver, folders, freshPath, request, runners } from "./file-harness.ts";

describeFileDriver("with the calls of Linux");

describe.each(Object.entries(runners))("file driver, %s", (_kind, runner) => {
  const folder = folders[0] as string;
  const run = runner.run.bind(runner) as <T>(co: Co<T>) => T | Promise<T>;

  async function refusal(
    options: Record<string, unknown>,
    readOnly = false,
  ): Promise<{ code: string; message: string }> {
    try {
      await run(fileDriver.open(request(options, readOnly)));
    } catch (error) {
      if (isBlockError(error)) return error;
      throw error;
    }
    throw new Error("it was opened");
  }

  it("leaves in the file exactly what was written", async () => {
    const path = freshPath(folder);
    await run(createFile(path));
    const driver = await run(fileDriver.open(request({ filename: path })));
    const bytes = randomBytes(new SeededRandom(1), 100_000);
    await run(
      driver.write(12_345, new IoVector([bytes.subarray(0, 7), bytes.subarray(7, 90_000), bytes.subarray(90_000)]), {}),
    );
    await run(driver.close());
    const content = fs.readFileSync(path);
    expect(content.length).toBe(112_345);
    expect(content.subarray(0, 12_345).every((byte) => byte === 0)).toBe(true);
    expect(content.subarray(12_345).equals(bytes)).toBe(true);
  });

  it("reads zeros beyond the end of a file that others have made shorter", async () => {
    const path = freshPath(folder);
    fs.writeFileSync(path, new Uint8Array(10_000).fill(1));
    const driver = await run(fileDriver.open(request({ filename: path })));
    const target = new Uint8Array(20_000).fill(9);
    await run(driver.read(5000, new IoVector([target.subarray(0, 1000), target.subarray(1000)])));
    expect(target.subarray(0, 5000).every((byte) => byte === 1)).toBe(true);
    expect(target.subarray(5000).every((byte) => byte === 0)).toBe(true);
    await run(driver.close());
  });

  it("sees a file that another descriptor has made longer", async () => {
    const path = freshPath(folder);
    fs.writeFileSync(path, "x");
    const driver = await run(fileDriver.open(request({ filename: path })));
    fs.truncateSync(path, 54_321);
    expect(driver.length()).toBe(54_321);
    await run(driver.close());
  });

  it("attaches to the descriptor of another driver and leaves it open", async () => {
    const path = freshPath(folder);
    fs.writeFileSync(path, "shared bytes");
    const owner = await run(fileDriver.open(request({ filename: path })));
    const options = structuredClone(owner.shareableOptions?.() ?? {});
    // The name is not looked up again.
    fs.renameSync(path, `${path}.moved`);
    const reader = await run(fileDriver.open(request(options, true)));
    const target = new Uint8Array(12);
    await run(reader.read(0, IoVector.of(target)));
    expect(Buffer.from(target).toString()).toBe("shared bytes");
    expect(reader.growable).toBe(false);
    await run(reader.close());
    await run(owner.write(0, IoVector.of(Uint8Array.of(83)), {}));
    await run(owner.close());
    expect(fs.readFileSync(`${path}.moved`, "latin1")).toBe("Shared bytes");
  });

  it("takes buffers of shared memory", async () => {
    const path = freshPath(folder);
    await run(createFile(path));
    const driver = await run(fileDriver.open(request({ filename: path })));
    const memory = new Uint8Array(new SharedArrayBuffer(16_384));
    memory.fill(7, 0, 8192);
    await run(driver.write(0, IoVector.of(memory.subarray(0, 8192)), {}));
    await run(driver.read(0, new IoVector([memory.subarray(8192, 9000), memory.subarray(9000)])));
    expect(memory.every((byte) => byte === 7)).toBe(true);
    await run(driver.close());
  });

  it("says in QEMU's words why a file cannot be opened", async () => {
    expect(await refusal({ filename: join(folder, "absent") })).toMatchObject({
      code: "ENOENT",
      message: `Could not open '${join(folder, "absent")}': No such file or directory`,
    });
    expect(await refusal({ filename: folder })).toMatchObject({ code: "EISDIR" });
    expect(await refusal({ filename: join(folder, "a\0b") })).toMatchObject({ code: "EINVAL" });
    expect(await refusal({ filename: "/dev/zero" })).toMatchObject({ code: "EINVAL" });
    expect(await refusal({})).toMatchObject({ code: "EINVAL" });
  });

  it("refuses a descriptor that is no storage", async () => {
    const fd = fs.openSync(folder, "r");
    expect(await refusal({ filename: "shared", fd }, true)).toMatchObject({ code: "EISDIR" });
    fs.closeSync(fd);
    expect(await refusal({ filename: "shared", fd: 99_999 }, true)).toMatchObject({ code: "EIO" });
  });

  it("refuses a FIFO without waiting for its other end", async () => {
    const path = freshPath(folder);
    const { execFileSync } = await import("node:child_process");
    execFileSync("mkfifo", [path]);
    expect(await refusal({ filename: path }, true)).toMatchObject({ code: "EINVAL" });
    expect(await refusal({ filename: path }, false)).toMatchObject({ code: "EINVAL" });
  });

  it("keeps saying that a flush has failed", async () => {
    const path = freshPath(folder);
    fs.writeFileSync(path, "x");
    const driver = await run(fileDriver.open(request({ filename: path })));
    fs.closeSync(driver.fileDescriptor as number);
    await expect((async () => run(driver.flush()))()).rejects.toMatchObject({ name: "BlockError", code: "EIO" });
    const replacement = fs.openSync(path, "r+");
    expect(replacement).toBe(driver.fileDescriptor);
    await expect((async () => run(driver.flush()))()).rejects.toMatchObject({ name: "BlockError", code: "EIO" });
    await expect((async () => run(driver.close()))()).rejects.toMatchObject({ code: "EIO" });
  });

  it.skipIf(linuxCalls() === null)("gives the space of discarded and unmapped ranges back", async () => {
    const path = freshPath(folder);
    fs.writeFileSync(path, new Uint8Array(1024 * 1024).fill(1));
    const driver = await run(fileDriver.open(request({ filename: path })));
    const before = fs.statSync(path).blocks;
    await run(driver.discard(0, 512 * 1024));
    await run(driver.writeZeroes(512 * 1024, 256 * 1024, { mayUnmap: true }));
    expect(fs.statSync(path).blocks).toBeLessThanOrEqual(before / 4 + 16);
    expect(fs.statSync(path).size).toBe(1024 * 1024);
    expect(await run(driver.blockStatus(0, 1024 * 1024))).toMatchObject({
      length: 768 * 1024,
      zero: true,
      data: false,
    });
    expect(await run(driver.blockStatus(800 * 1024, 1000))).toMatchObject({
      length: 1000,
      zero: false,
      data: true,
      hostOffset: 800 * 1024,
    });
    await run(driver.close());
  });
});
