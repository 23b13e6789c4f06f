/** qcow2 disks that get longer and shorter: against a model, `qemu-img check`, and every loss of power. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MiB, SeededRandom } from "@spindle/base";
import type { BlockNode, Preallocation } from "@spindle/block";
import { crashStates, MemoryDriver, RecordedDriver, randomBytes } from "@spindle/testkit";
import { peer } from "@spindle/testkit/peers";
import { afterAll, describe, expect, it } from "vitest";
import { contentOf, createQcow2, openQcow2, readBytes, run, writeBytes } from "./open-image.ts";
import { checkWithQemu } from "./qemu-check.ts";

const qemuImg = peer("qemu-img");
const directory = mkdtempSync(join(tmpdir(), "spindle-resize-"));
afterAll(() => rmSync(directory, { recursive: true }));

const check = (bytes: Uint8Array) => checkWithQemu(qemuImg as string, join(directory, "state.qcow2"), bytes);

/** What a disk of this length shows after it has been cut or continued with zeros. */
function resized(bytes: Uint8Array, length: number): Uint8Array {
  const result = new Uint8Array(length);
  result.set(bytes.subarray(0, length));
  return result;
}

function compare(node: BlockNode, expected: Uint8Array): void {
  expect(node.length).toBe(expected.length);
  expect(Buffer.compare(readBytes(node, 0, node.length), expected)).toBe(0);
}

const SECTORS_MAX = (12 * MiB) / 512;

describe.skipIf(qemuImg === undefined)("a qcow2 disk", () => {
  it.each([
    ["512", "1.1", 1],
    ["512", "0.10", 2],
    ["4k", "1.1", 3],
    ["64k", "0.10", 4],
    ["64k", "1.1", 5],
    ["2M", "1.1", 6],
  ])("with a backing file shows no more of it than before (%s clusters, %s)", (cluster_size, compat, seed) => {
    const random = new SeededRandom(seed);
    const below = new MemoryDriver();
    createQcow2(below, 8 * MiB, {});
    const backing = openQcow2(below);
    writeBytes(backing, 0, randomBytes(random, 8 * MiB));
    run(backing.flush());
    const driver = new MemoryDriver();
    createQcow2(driver, 3 * MiB, { cluster_size, compat }, { filename: "base", format: "qcow2" });
    const node = openQcow2(driver, { backing });
    let expected: Uint8Array = readBytes(node, 0, 3 * MiB);
    for (let round = 0; round < 12; round++) {
      const length = random.below(SECTORS_MAX) * 512;
      run(node.truncate(length));
      // What was cut off and is there again has come from neither the image nor its backing file.
      expected = resized(expected, length);
      compare(node, expected);
      if (length > 512) {
        const at = random.below(length - 512);
        const bytes = randomBytes(random, 1 + random.below(Math.min(length - at, 100_000)));
        writeBytes(node, at, bytes);
        expected.set(bytes, at);
      }
    }
    run(node.driver.close());
    writeFileSync(join(directory, "base"), contentOf(below.content));
    expect(check(contentOf(driver.content))).toMatchObject({ code: 0 });
    compare(openQcow2(driver, { backing }), expected);
  });

  it.each<[string, Preallocation]>([
    ["64k", "metadata"],
    ["64k", "falloc"],
    ["4k", "full"],
    ["512", "metadata"],
  ])("has its new clusters at once (%s clusters, %s)", (cluster_size, preallocation) => {
    const driver = new MemoryDriver();
    createQcow2(driver, 1 * MiB + 512, { cluster_size });
    const node = openQcow2(driver);
    const old = randomBytes(new SeededRandom(1), 1 * MiB);
    writeBytes(node, 0, old);
    run(node.discard(0, 512 * 1024));
    old.fill(0, 0, 512 * 1024);
    run(node.flush());
    run(node.truncate(4 * MiB, preallocation));
    compare(node, resized(old, 4 * MiB));
    const { length, data } = run(node.blockStatus(2 * MiB, 2 * MiB));
    expect([data, length > 0]).toEqual([true, true]);
    run(node.driver.close());
    const { code, text } = check(contentOf(driver.content));
    expect(code, text).toBe(0);
  });

  it("gives its space back when it gets shorter", () => {
    const driver = new MemoryDriver();
    createQcow2(driver, 8 * MiB, {});
    const node = openQcow2(driver);
    writeBytes(node, 0, randomBytes(new SeededRandom(1), 8 * MiB));
    run(node.flush());
    const before = driver.length();
    run(node.truncate(1 * MiB));
    expect(driver.length()).toBeLessThan(before - 6 * MiB);
  });

  it("refuses what it cannot be", () => {
    const driver = new MemoryDriver();
    createQcow2(driver, 1 * MiB, {});
    const node = openQcow2(driver);
    expect(() => run(node.truncate(1000))).toThrow("The new size must be a multiple of 512");
    expect(() => run(node.truncate(2 ** 52))).toThrow("Failed to grow the L1 table: File too large");
    expect(node.length).toBe(1 * MiB);
    writeBytes(node, 0, new Uint8Array(100).fill(1));
    run(node.driver.close());
    expect(check(contentOf(driver.content)).code).toBe(0);
  });

  it.each([
    ["512", 1],
    ["4k", 2],
    ["64k", 3],
  ])(
    "is never corrupt after a power cut, and has the old length or the new one (%s clusters)",
    (cluster_size, seed) => {
      const random = new SeededRandom(seed);
      const empty = new MemoryDriver();
      createQcow2(empty, 1 * MiB, { cluster_size });
      const file = new RecordedDriver(empty.content);
      const node = openQcow2(file);
      const kept = randomBytes(random, 256 * 1024);
      writeBytes(node, 0, kept);
      run(node.flush());
      const lengths = [1, 5, 2, 9, 0.5, 6].map((size) => size * MiB);
      for (const length of lengths) {
        run(node.truncate(length, random.chance(0.3) && length > node.length ? "metadata" : "off"));
        writeBytes(node, length - 4096, randomBytes(random, 4096));
      }
      run(node.driver.close());
      let count = 0;
      for (const state of crashStates(file.log, random, 40)) {
        const bytes = contentOf(state.image);
        const { code, text } = check(bytes);
        expect([0, 3], `${state.description}\n${text}`).toContain(code);
        const image = openQcow2(new MemoryDriver(bytes), { readOnly: true });
        expect(lengths).toContain(image.length);
        count += 1;
      }
      expect(count).toBeGreaterThan(30);
    },
  );
});
