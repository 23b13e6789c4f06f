/** Files that are read and written past the page cache: the driver contract, and requests that no device would take. */
import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Co, SECTOR_SIZE, SeededRandom } from "@spindle/base";
import { type BlockDriver, IoVector } from "@spindle/block";
import { randomBytes } from "@spindle/testkit";
import { describeDriver } from "@spindle/testkit/driver-conformance";
import { afterAll, describe, expect, it } from "vitest";
import { createFile, descriptorIo, fileDriver, linuxCalls } from "../src/index.ts";
import { request, runners } from "./file-harness.ts";

const O_DIRECT_BIT = 0o40000;
const O_NONBLOCK_BIT = 0o4000;
const folder = fs.mkdtempSync(join(tmpdir(), "spindle-direct-"));
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));
let count = 0;

function freshPath(): string {
  count += 1;
  return join(folder, `file-${count}`);
}

function openDirect(path: string, readOnly = false): Co<BlockDriver> {
  return fileDriver.open({ ...request({ filename: path }, readOnly), cache: { direct: true } });
}

describe.skipIf(linuxCalls() === null)("past the page cache", () => {
  describe.each(Object.entries(runners))("%s", (name, runner) => {
    describeDriver(`file past the page cache, ${name}`, () => {
      const paths = new Map<BlockDriver, string>();
      function* open(path: string): Co<BlockDriver> {
        const driver = yield* openDirect(path);
        paths.set(driver, path);
        return driver;
      }
      return {
        *open(length) {
          const path = freshPath();
          yield* createFile(path);
          fs.truncateSync(path, length);
          return yield* open(path);
        },
        reopen: (closed) => open(paths.get(closed) as string),
        lengthUnit: SECTOR_SIZE,
        run: (co) => runner.run(co),
      };
    });

    it("puts writes of a few bytes side by side into one block, and loses none", async () => {
      const path = freshPath();
      const content = Buffer.from(randomBytes(new SeededRandom(2), 20_000));
      fs.writeFileSync(path, content);
      const driver = await runner.run(openDirect(path));
      const writes = Array.from({ length: 100 }, (_, index) => {
        const bytes = new Uint8Array(90).fill(index);
        content.set(bytes, index * 100 + 7);
        return runner.run(driver.write(index * 100 + 7, new IoVector([bytes.subarray(0, 13), bytes.subarray(13)]), {}));
      });
      await Promise.all(writes);
      await runner.run(driver.close());
      expect(fs.readFileSync(path).subarray(0, 20_000).equals(content)).toBe(true);
    });
  });

  it("really opens the file so, and lets other threads use the descriptor", async () => {
    const path = freshPath();
    fs.writeFileSync(path, new Uint8Array(10_000).fill(5));
    const runner = runners["blocking"] as (typeof runners)[string];
    const driver = await runner.run(openDirect(path, true));
    const flags = /^flags:\s*(\d+)/m.exec(fs.readFileSync(`/proc/self/fdinfo/${driver.fileDescriptor}`, "utf8"))?.[1];
    // With O_NONBLOCK a ring would give up what has to wait.
    expect(Number.parseInt(flags ?? "", 8) & (O_DIRECT_BIT + O_NONBLOCK_BIT)).toBe(O_DIRECT_BIT);
    const bytes = new Uint8Array(700);
    await runner.run(descriptorIo.read(driver.fileDescriptor as number, 9_700, IoVector.of(bytes)));
    expect([...bytes]).toEqual([...new Uint8Array(700).fill(5, 0, 300)]);
    const reader = await runner.run(fileDriver.open(request(structuredClone(driver.shareableOptions?.() ?? {}), true)));
    await runner.run(reader.read(3, IoVector.of(bytes)));
    expect([...new Set(bytes)]).toEqual([5]);
    await runner.run(reader.close());
    await runner.run(driver.close());
  });

  it("says in QEMU's words that a file system has no such way", () => {
    const open = (): unknown => runners["blocking"]?.run(openDirect("/proc/version", true));
    expect(open).toThrow(
      expect.objectContaining({ message: "Could not open '/proc/version': filesystem does not support O_DIRECT" }),
    );
  });
});

const loopDevice = attachLoopDevice();
afterAll(() => loopDevice?.detach());

describe.skipIf(loopDevice === undefined)("a device with blocks of 4096 bytes, past the page cache", () => {
  it("takes sectors one after the other, on one thread alone", async () => {
    const { device, file } = loopDevice as NonNullable<typeof loopDevice>;
    const runner = runners["on the event loop"] as (typeof runners)[string];
    const driver = await runner.run(openDirect(device));
    expect(driver.fileDescriptor).toBeUndefined();
    const sectors = Array.from({ length: 64 }, (_, index) => index);
    const write = (index: number): unknown =>
      runner.run(driver.write(index * 512, IoVector.of(new Uint8Array(512).fill(index + 1)), {}));
    await Promise.all(sectors.map(write));
    await runner.run(driver.close());
    const found = fs.readFileSync(file);
    for (const index of sectors)
      expect([...new Set(found.subarray(index * 512, index * 512 + 512))]).toEqual([index + 1]);
  });
});

/** Only root may, and not everywhere. */
function attachLoopDevice() {
  const file = join(folder, "loop");
  fs.writeFileSync(file, new Uint8Array(1024 * 1024));
  try {
    const argv = ["--find", "--show", "--sector-size", "4096", file];
    const device = execFileSync("losetup", argv, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim();
    return { device, file, detach: () => void execFileSync("losetup", ["--detach", device]) };
  } catch {
    return undefined;
  }
}
