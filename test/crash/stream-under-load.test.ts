/**
 * Loses the power at every barrier, and at random times between them, while guests use a disk that is being streamed:
 * every state that the image file can be left in is opened again. QEMU judges a part of them.
 */
import { SeededRandom } from "@spindle/base";
import { crashStates } from "@spindle/testkit";
import { peer } from "@spindle/testkit/peers";
import { describe, expect, it } from "vitest";
import { type HistoryResult, runHistory } from "../simulation/history.ts";
import { type ChainShape, TOP_FILE } from "../simulation/image-chain.ts";
import { judgeCrashState } from "../simulation/power-cut.ts";
import { QemuJudge } from "./qemu-judge.ts";

const LONG = process.env["SPINDLE_LONG"] === "1";
const STATES_EACH = LONG ? 5_000 : 500;
const JUDGED_BY_QEMU_EACH = LONG ? 500 : 40;
const SEEDS = LONG ? 40 : 6;
const TIMEOUT_MS = 60 * 60 * 1000;

/** Disks of a hundred KiB or so, with streams that are long beside the guests' requests. */
const SHAPE: ChainShape = { layersMax: 3, clusterSizes: [512, 1024, 4096, 16384, 65536], sectors: [200, 500] };

const qemuImg = peer("qemu-img");

/** A history whose streams and guests have left many barriers in the log; the seed is the first one to try. */
function busyHistory(seed: number, faults: boolean): HistoryResult {
  return runHistory(seed, { shape: SHAPE, requests: 50, crashStates: 0, faults });
}

function judgement(history: HistoryResult, seed: number) {
  const random = new SeededRandom(seed);
  return { ...history, random, flattened: false, leaksAllowed: true, crashStates: 0, log: undefined };
}

describe("an image whose stream a loss of power has interrupted", () => {
  const seeds = Array.from({ length: SEEDS }, (_, index) => index + 1);

  it.each(seeds)(`opens, is not damaged, and holds what was durable (history %i)`, { timeout: TIMEOUT_MS }, (seed) => {
    const history = busyHistory(seed, seed % 2 === 0);
    const images = judgement(history, seed);
    let states = 0;
    for (const { image, time, description } of crashStates(history.storage.writeLog, images.random, STATES_EACH)) {
      states += 1;
      try {
        judgeCrashState(images, image, time);
      } catch (error) {
        const what = `history ${seed}, power lost at ${time} with ${description}`;
        throw new Error(`${what}: ${error instanceof Error ? error.message : error}`, { cause: error });
      }
    }
    expect(states).toBeGreaterThan(STATES_EACH / 4);
  });

  it.skipIf(qemuImg === undefined)("is not damaged in QEMU's eyes, and reads the same", { timeout: TIMEOUT_MS }, () => {
    const codes = new Map<number | null, number>();
    for (const seed of seeds) {
      using judge = new QemuJudge(qemuImg as string);
      const history = busyHistory(seed, seed % 2 === 0);
      for (const { filename } of history.chain.layers) judge.put(filename, history.storage.content(filename));
      const { writeLog } = history.storage;
      const every = Math.ceil(STATES_EACH / JUDGED_BY_QEMU_EACH);
      let states = 0;
      for (const { image, time, description } of crashStates(writeLog, new SeededRandom(seed), STATES_EACH)) {
        states += 1;
        if (states % every !== 0) continue;
        judge.put(TOP_FILE, image);
        const { code, text } = judge.check();
        codes.set(code, (codes.get(code) ?? 0) + 1);
        const what = `history ${seed}, power lost at ${time} with ${description}`;
        expect([0, 3], `${what}\n${text}`).toContain(code);
        expect(history.model.crashMismatch(0, judge.readDisk(), time), what).toBeUndefined();
      }
    }
    // Some states are clean and some have leaked: otherwise nothing was interrupted.
    expect(codes.get(0)).toBeGreaterThan(0);
    expect(codes.get(3)).toBeGreaterThan(0);
  });
});
