/**
 * Everything at once on real threads, real files and the real clock: the twin of the simulated histories. A few seconds
 * in every run; for as long as `SPINDLE_SOAK_MINUTES` says, by default ten, where `SPINDLE_LONG=1` asks for the long form.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SeededRandom } from "@spindle/base";
import { peer } from "@spindle/testkit/peers";
import { Session } from "spindle";
import { describe, expect, it } from "vitest";
import { ProcessGrowth } from "./process-growth.ts";
import { type RoundOptions, type RoundResult, removeOverlay, soakRound } from "./soak-round.ts";
import { convertStampedFile, writeStampedFile } from "./stamped-disk.ts";

const LONG = process.env["SPINDLE_LONG"] === "1";
const MINUTES = LONG ? Number(process.env["SPINDLE_SOAK_MINUTES"] ?? 10) : 0.12;
const DISK_BYTES = (LONG ? 256 : 40) * 1024 * 1024;
const DISKS = LONG ? 4 : 2;
const GUESTS = 2;
/** Memory may grow by this much until all caches are full. */
const GROWTH_MIB_MAX = 128;

const qemuImg = peer("qemu-img");

describe("disks in use on many threads", () => {
  it("keep every sector, whatever is cancelled or killed", { timeout: (MINUTES + 5) * 60_000 }, async () => {
    const folder = mkdtempSync(join(tmpdir(), "spindle-soak-"));
    const seed = LONG ? Date.now() % 2 ** 31 : 1;
    const growth = new ProcessGrowth();
    const results: RoundResult[] = [];
    try {
      await using session = new Session({ workers: 2 });
      const disks = await makeDisks(session, folder, seed);
      const endMs = performance.now() + MINUTES * 60_000;
      for (let round = 0; round < 2 || performance.now() < endMs; round++) {
        const options = disks.map((disk, index) => ({ ...disk, name: `round${round}-disk${index}` }));
        const ended = await Promise.all(options.map((disk) => soakRound(disk)));
        results.push(...ended);
        for (const { overlay } of options) checkWithQemu(overlay);
        for (const disk of options) removeOverlay(disk);
        expect(
          ended.flatMap(({ wrong }) => wrong),
          `seed ${seed}, round ${round}`,
        ).toEqual([]);
        growth.sample();
      }
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
    process.stdout.write(`${describeTotals(results)}; ${growth.describe()}\n`);
    expect(sum(results, "sectorsVerified")).toBeGreaterThan(10_000);
    // Threads of the pool come and go with descriptors of their own, a few each.
    expect(Math.max(...growth.openFiles.slice(1)) - Math.min(...growth.openFiles.slice(1))).toBeLessThan(32);
    expect(growth.residentMib).toBeLessThan(GROWTH_MIB_MAX);
  });
});

/** Disks over a raw base and over a qcow2 base in turns. */
async function makeDisks(session: Session, folder: string, seed: number): Promise<Omit<RoundOptions, "name">[]> {
  const disks: Omit<RoundOptions, "name">[] = [];
  for (let index = 0; index < DISKS; index++) {
    const random = new SeededRandom(seed + index);
    const base = join(folder, `base${index}.raw`);
    writeStampedFile(base, DISK_BYTES, random);
    const converted = join(folder, `base${index}.qcow2`);
    if (index % 2 === 1) await convertStampedFile(session, base, converted, DISK_BYTES);
    const backing = index % 2 === 1 ? { filename: converted, format: "qcow2" } : { filename: base, format: "raw" };
    const overlay = join(folder, `overlay${index}.qcow2`);
    disks.push({ session, random, overlay, backing, base, guests: GUESTS });
  }
  return disks;
}

/** @throws {Error} when QEMU finds damage or leaks. */
function checkWithQemu(path: string): void {
  if (qemuImg === undefined) return;
  const { status, stdout, stderr } = spawnSync(qemuImg, ["check", path], { encoding: "utf8" });
  if (status !== 0) throw new Error(`qemu-img check ends with ${status}: ${stdout}${stderr}`);
}

function sum(results: readonly RoundResult[], key: Exclude<keyof RoundResult, "wrong">): number {
  return results.reduce((total, result) => total + result[key], 0);
}

function describeTotals(results: readonly RoundResult[]): string {
  return (
    `${results.length} rounds: ${sum(results, "requests")} requests, ${sum(results, "sectorsVerified")} sectors ` +
    `verified, ${sum(results, "jobs")} streams, ${sum(results, "readersKilled")} readers and ` +
    `${sum(results, "workersKilled")} copy workers killed`
  );
}
