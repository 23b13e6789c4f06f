import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
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
import { contentOf, createQcow2, openQcow2, readBytes, run } from "./open-image.ts";

const SIZE = 2 * 1024 * 1024;
const qemuImg = peer("qemu-img");
const directory = mkdtempSync(join(tmpdir(), "spindle-crash-"));
afterAll(() => rmSync(directory, { recursive: true }));

/** The exit code of `qemu-img check`: 0 is clean, 3 has leaks, 2 is corrupt. */
function checkWithQemu(bytes: Uint8Array): { code: number; text: string } {
  const path = join(directory, "state.qcow2");
  writeFileSync(path, bytes);
  try {
    return { code: 0, text: execFileSync(qemuImg as string, ["check", path], { encoding: "utf8", stdio: "pipe" }) };
  } catch (error) {
    const failure = error as { status: number; stdout: string; stderr: string };
    return { code: failure.status, text: failure.stdout + failure.stderr };
  }
}

describe.skipIf(qemuImg === undefined)("a qcow2 image after a power cut", () => {
  it.each([
    ["64k", 1],
    ["4k", 2],
    ["512", 3],
  ])("is never corrupt and has kept all that was flushed (%s clusters)", (clusterSize, seed) => {
    const empty = new MemoryDriver();
    createQcow2(empty, SIZE, { cluster_size: clusterSize });
    const file = new RecordedDriver(empty.content);
    const model = new DurabilityModel(SIZE, file.log.timeline);
    const disk = new ObservedDisk(openQcow2(file), model);
    const random = new SeededRandom(seed);
    for (let round = 0; round < 60; round++) {
      const offset = random.below(SIZE / 512 - 400) * 512;
      const length = (1 + random.below(300)) * 512;
      const kind = random.below(10);
      if (kind < 5) run(disk.write(offset, randomBytes(random, length)));
      else if (kind < 7) run(disk.writeZeroes(offset, length, { mayUnmap: random.chance(0.5) }));
      else if (kind < 8) run(disk.discard(offset, length));
      else run(disk.flush());
    }
    const codes = new Map<number, number>();
    for (const state of crashStates(file.log, random, 30)) {
      const bytes = contentOf(state.image);
      const { code, text } = checkWithQemu(bytes);
      codes.set(code, (codes.get(code) ?? 0) + 1);
      expect([0, 3], `${state.description}\n${text}`).toContain(code);
      const image = openQcow2(new MemoryDriver(bytes), { readOnly: true });
      expect(model.crashMismatch(0, readBytes(image, 0, SIZE), state.time)).toBeUndefined();
    }
    expect([...codes.values()].reduce((sum, count) => sum + count, 0)).toBeGreaterThan(20);
  });
});
