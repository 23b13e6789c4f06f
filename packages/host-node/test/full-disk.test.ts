import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Co } from "@spindle/base";
import { IoVector } from "@spindle/block";
import { afterAll, describe, expect, it } from "vitest";
import { createFile, fileDriver, linuxCalls } from "../src/index.ts";
import { request, runners } from "./file-harness.ts";

const MOUNT_BYTES = 1024 * 1024;
const folder = fs.mkdtempSync(join(tmpdir(), "spindle-full-disk-"));

function mountSmall(): boolean {
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", `size=${MOUNT_BYTES}`, "tmpfs", folder], { stdio: "ignore" });
    return true;
  } catch {
    process.stderr.write(
      "\n*** a small file system cannot be mounted here: the tests of a full disk are SKIPPED ***\n",
    );
    return false;
  }
}

const mounted = mountSmall();
afterAll(() => {
  if (mounted) execFileSync("umount", [folder]);
  fs.rmSync(folder, { recursive: true, force: true });
});

describe.skipIf(!mounted).each(Object.entries(runners))("file on a full disk, %s", (kind, runner) => {
  const run = runner.run.bind(runner) as <T>(co: Co<T>) => T | Promise<T>;
  const path = join(folder, kind.replaceAll(" ", "-"));

  it("fails with ENOSPC, keeps what was there, and goes on when there is room again", async () => {
    await run(createFile(path));
    const driver = await run(fileDriver.open(request({ filename: path })));
    const half = new Uint8Array(MOUNT_BYTES / 2);
    await run(driver.write(0, IoVector.of(half.fill(1)), {}));
    const tooMuch = [new Uint8Array(MOUNT_BYTES / 4).fill(2), new Uint8Array(MOUNT_BYTES).fill(3)];
    await expect((async () => run(driver.write(half.length, new IoVector(tooMuch), {})))()).rejects.toMatchObject({
      name: "BlockError",
      code: "ENOSPC",
      message: expect.stringContaining("No space left on device"),
      context: { operation: "write", offset: half.length },
    });
    const target = new Uint8Array(half.length);
    await run(driver.read(0, IoVector.of(target)));
    expect(target.every((byte) => byte === 1)).toBe(true);
    if (linuxCalls() !== null) {
      await run(driver.discard(0, half.length));
      await run(driver.write(0, IoVector.of(half.fill(4)), {}));
    }
    await run(driver.truncate(0));
    await run(driver.write(0, IoVector.of(half.fill(5)), {}));
    await run(driver.close());
    expect(fs.readFileSync(path).every((byte) => byte === 5)).toBe(true);
    fs.unlinkSync(path);
  });
});
