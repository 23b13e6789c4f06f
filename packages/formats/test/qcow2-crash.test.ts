import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SeededRandom } from "@spindle/base";
import {
  crashStates,
  DurabilityModel,
  MemoryDriver,
  ObservedDisk,
  RecordedDriver,
  randomBytes,
} from "@spindle/testkit";
import { peer } from "@spindle/testkit/peers";
import { afterAll, describe, expect, it } from "vitest";
import { checkHere } from "./check-both.ts";
import { contentOf, createQcow2, openQcow2, readBytes, run, writeBytes } from "./open-image.ts";
import { checkWithQemu } from "./qemu-check.ts";

const SIZE = 2 * 1024 * 1024;
const qemuImg = peer("qemu-img");
const directory = mkdtempSync(join(tmpdir(), "spindle-crash-"));
afterAll(() => rmSync(directory, { recursive: true }));

const check = (bytes: Uint8Array) => checkWithQemu(qemuImg as string, join(directory, "state.qcow2"), bytes);

/** Random requests on a new image, and every write to its file. */
function use(options: Record<string, string>, random: SeededRandom): { file: RecordedDriver; model: DurabilityModel } {
  const empty = new MemoryDriver();
  createQcow2(empty, SIZE, options);
  const file = new RecordedDriver(empty.content);
  const model = new DurabilityModel(SIZE, file.log.timeline);
  const image = openQcow2(file);
  const disk = new ObservedDisk(image, model);
  for (let round = 0; round < 60; round++) {
    const offset = random.below(SIZE / 512 - 400) * 512;
    const length = (1 + random.below(300)) * 512;
    const kind = random.below(10);
    if (kind < 5) run(disk.write(offset, randomBytes(random, length)));
    else if (kind < 7) run(disk.writeZeroes(offset, length, { mayUnmap: random.chance(0.5) }));
    else if (kind < 8) run(disk.discard(offset, length));
    else run(disk.flush());
  }
  run(image.driver.close());
  return { file, model };
}

describe.skipIf(qemuImg === undefined)("a qcow2 image after a power cut", () => {
  it.each([
    ["64k", 1, "off"],
    ["4k", 2, "off"],
    ["512", 3, "off"],
    ["64k", 7, "on"],
  ])(
    "is never corrupt and has kept all that was flushed (%s clusters, seed %i, subclusters %s)",
    (clusterSize, seed, extended_l2) => {
      const random = new SeededRandom(seed);
      const { file, model } = use({ cluster_size: clusterSize, extended_l2 }, random);
      const codes = new Map<number, number>();
      for (const state of crashStates(file.log, random, 30)) {
        const bytes = contentOf(state.image);
        const { code, text } = check(bytes);
        codes.set(code, (codes.get(code) ?? 0) + 1);
        expect([0, 3], `${state.description}\n${text}`).toContain(code);
        const image = openQcow2(new MemoryDriver(bytes), { readOnly: true });
        expect(model.crashMismatch(0, readBytes(image, 0, SIZE), state.time)).toBeUndefined();
      }
      expect([...codes.values()].reduce((sum, count) => sum + count, 0)).toBeGreaterThan(20);
    },
  );

  it.each([
    ["64k", 4],
    ["4k", 5],
    ["512", 6],
  ])("with lazy refcounts is sound after one repair, and has kept all that was flushed (%s clusters)", (size, seed) => {
    const random = new SeededRandom(seed);
    const { file, model } = use({ cluster_size: size, lazy_refcounts: "on" }, random);
    let needed = 0;
    for (const state of crashStates(file.log, random, 40)) {
      const bytes = contentOf(state.image);
      const found = checkHere(bytes);
      const isDirty = (bytes[79] as number) === 1;
      // Only who was not closed in order may be wrong.
      if (!isDirty) expect(found.numbers?.["corruptions"], state.description).toBeUndefined();
      if (found.lines.length > 0) needed += 1;
      const image = openQcow2(new MemoryDriver(bytes), { readOnly: true });
      expect(model.crashMismatch(0, readBytes(image, 0, SIZE), state.time)).toBeUndefined();
      // Opening for writing repairs what is dirty.
      const driver = new MemoryDriver(bytes);
      const writable = openQcow2(driver);
      writeBytes(writable, 0, new Uint8Array(SIZE / 4).fill(7));
      run(writable.driver.close());
      const { code, text } = check(contentOf(driver.content));
      expect(code === 0 || (code === 3 && !isDirty), `${state.description}\n${text}`).toBe(true);
      const repaired = checkHere(bytes, "all").bytes;
      expect(checkHere(repaired).lines, state.description).toEqual([]);
      expect(check(repaired), state.description).toMatchObject({ code: 0 });
    }
    expect(needed).toBeGreaterThan(5);
  });
});
