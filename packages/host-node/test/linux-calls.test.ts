import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SeededRandom } from "@spindle/base";
import { randomBytes } from "@spindle/testkit";
import { afterAll, describe, expect, it } from "vitest";
import { linuxCalls } from "../src/index.ts";
import type { HostCall } from "../src/linux-calls.ts";

const calls = linuxCalls();
const folder = fs.mkdtempSync(join(tmpdir(), "spindle-linux-calls-"));
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

function start<Parameters extends readonly unknown[], T>(
  call: HostCall<Parameters, T>,
  ...parameters: Parameters
): Promise<T> {
  return new Promise((resolve, reject) => {
    call.start((error, value) => (error === undefined ? resolve(value as T) : reject(error)), ...parameters);
  });
}

describe.skipIf(calls === null)("calls of Linux", () => {
  if (calls === null) return;
  const block = 64 * 1024;

  function sparseFile(): number {
    const fd = fs.openSync(join(folder, `sparse-${Math.random()}`), "w+");
    fs.ftruncateSync(fd, 8 * block);
    fs.writeSync(fd, new Uint8Array(block).fill(1), 0, block, 2 * block);
    return fd;
  }

  it("find data and holes, on this thread and on the pool's", async () => {
    const fd = sparseFile();
    const { seekData, seekHole } = calls;
    expect([seekData.sync(fd, 0), seekHole.sync(fd, 2 * block)]).toEqual([2 * block, 3 * block]);
    expect(await start(seekData, fd, 0)).toBe(2 * block);
    expect(await start(seekHole, fd, 0)).toBe(0);
    expect([seekData.sync(fd, 3 * block), seekHole.sync(fd, 8 * block)]).toEqual([undefined, undefined]);
    expect(await start(seekData, fd, 3 * block)).toBeUndefined();
    expect(calls.seekEnd(fd)).toBe(8 * block);
    fs.closeSync(fd);
  });

  it("say the errno of what fails, each its own when many run side by side", async () => {
    const fd = sparseFile();
    const readOnly = fs.openSync("/dev/null", "r");
    const failures = await Promise.all(
      Array.from({ length: 40 }, (_, index) =>
        index % 2 === 0 ? start(calls.fallocate, readOnly, 3, 0, block) : start(calls.fallocate, fd, 0, -1, block),
      ).map((call) => call.then(() => "none").catch((error: { code: string }) => error.code)),
    );
    expect(failures).toEqual(failures.map((_, index) => (index % 2 === 0 ? "EBADF" : "EINVAL")));
    expect(() => calls.seekData.sync(99_999, 0)).toThrow(expect.objectContaining({ code: "EBADF" }));
    fs.closeSync(fd);
    fs.closeSync(readOnly);
  });

  it("copy between files inside the kernel, and say how much", async () => {
    const [source, target] = [sparseFile(), sparseFile()];
    const bytes = randomBytes(new SeededRandom(1), 10_000);
    fs.writeSync(source, bytes, 0, bytes.length, 3 * block);
    expect(calls.copyFileRange.sync(source, 3 * block, target, 5, 4000)).toBe(4000);
    expect(await start(calls.copyFileRange, source, 3 * block + 4000, target, 4005, 6000)).toBe(6000);
    expect(calls.copyFileRange.sync(source, 9 * block, target, 0, 100)).toBe(0);
    const copied = new Uint8Array(bytes.length);
    fs.readSync(target, copied, 0, copied.length, 5);
    expect(copied).toEqual(bytes);
    fs.closeSync(source);
    fs.closeSync(target);
  });

  it("read what is cached at once, and never from buffers that may move", () => {
    const fd = sparseFile();
    const buffers = [new Uint8Array(1000), new Uint8Array(3000)];
    const count = calls.readCached(fd, buffers, 2 * block);
    // -1 on file systems that do not know RWF_NOWAIT.
    expect([4000, -1]).toContain(count);
    if (count === 4000) expect(buffers.every((buffer) => buffer.every((byte) => byte === 1))).toBe(true);
    expect(calls.readCached(fd, [new Uint8Array(16)], 2 * block)).toBe(-1);
    expect(calls.readCached(99_999, [new Uint8Array(1000)], 0)).toBe(-1);
    fs.closeSync(fd);
  });
});
