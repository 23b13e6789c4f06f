import { type Co, join, SECTOR_SIZE, SeededRandom } from "@spindle/base";
import { IoVector } from "@spindle/block";
import { describe, expect, it } from "vitest";
import {
  crashStates,
  DurabilityModel,
  forEachSeed,
  ObservedDisk,
  RecordedDriver,
  randomBytes,
  SimulatedRunner,
  Timeline,
} from "../src/index.ts";

const LENGTH = 64 * SECTOR_SIZE;

/** Requests on few sectors, so that they meet. */
function* guest(disk: ObservedDisk, random: SeededRandom, requests: number): Co<void> {
  for (let count = 0; count < requests; count++) {
    const sectors = 1 + random.below(6);
    const offset = random.below(LENGTH / SECTOR_SIZE - sectors) * SECTOR_SIZE;
    const length = sectors * SECTOR_SIZE;
    const choice = random.below(100);
    if (choice < 50) yield* disk.write(offset, randomBytes(random, length));
    else if (choice < 65) yield* disk.read(offset, length);
    else if (choice < 75) yield* disk.writeZeroes(offset, length);
    else if (choice < 85) yield* disk.discard(offset, length);
    else yield* disk.flush();
  }
}

function simulate(seed: number, driver: RecordedDriver, model: DurabilityModel): void {
  const runner = new SimulatedRunner(seed);
  const random = new SeededRandom(seed);
  const disk = new ObservedDisk(driver, model);
  runner.runAll([1, 2, 3].map((number) => guest(disk, new SeededRandom(random.u32() + number), 30)));
}

/** The first wrong state, in words. */
function judge(driver: RecordedDriver, model: DurabilityModel, seed: number, count: number): string | undefined {
  for (const { image, time, description } of crashStates(driver.log, new SeededRandom(seed), count)) {
    const bytes = new Uint8Array(LENGTH);
    image.read(0, bytes);
    const mismatch = model.crashMismatch(0, bytes, time);
    if (mismatch !== undefined) return `${mismatch}\n after a crash at ${time}: ${description}`;
  }
  return undefined;
}

describe("crash states", () => {
  it("are all right by the durability model when the disk is the storage itself", () =>
    forEachSeed(15, (seed) => {
      const timeline = new Timeline();
      const driver = new RecordedDriver(LENGTH, timeline);
      const model = new DurabilityModel(LENGTH, timeline);
      simulate(seed, driver, model);
      expect(judge(driver, model, seed, 100)).toBeUndefined();
    }));

  it("show a disk that does not pass flushes on", () => {
    class Forgetful extends RecordedDriver {
      override *flush(): Co<void> {}
    }
    const timeline = new Timeline();
    const driver = new Forgetful(LENGTH, timeline);
    const model = new DurabilityModel(LENGTH, timeline);
    simulate(1, driver, model);
    expect(judge(driver, model, 1, 100)).toMatch(/^sector \d+ holds .*, and should hold (write|zero)/);
  });

  it("show a disk that completes writes before they have happened", () => {
    class Hasty extends RecordedDriver {
      readonly #late: Co<void>[] = [];
      override *write(offset: number, vector: IoVector): Co<void> {
        this.#late.push(super.write(offset, vector));
        if (this.#late.length > 3) yield* this.#late.shift() as Co<void>;
      }
    }
    const timeline = new Timeline();
    expect(() => simulate(2, new Hasty(LENGTH, timeline), new DurabilityModel(LENGTH, timeline))).toThrow(
      /wrong data: sector \d+ holds/,
    );
  });

  it("are distinct, bounded in number, and the same for the same seed", () => {
    const timeline = new Timeline();
    const driver = new RecordedDriver(LENGTH, timeline);
    simulate(3, driver, new DurabilityModel(LENGTH, timeline));
    const describeAll = (seed: number): string[] =>
      [...crashStates(driver.log, new SeededRandom(seed), 200)].map(
        ({ image, time, description }) => `${time} ${description} ${image.contentHash()}`,
      );
    const states = describeAll(1);
    expect(states).toHaveLength(200);
    expect(new Set(states).size).toBe(200);
    expect(describeAll(1)).toEqual(states);
    expect(describeAll(2)).not.toEqual(states);
  });

  it("end when there are no more", () => {
    const driver = new RecordedDriver(SECTOR_SIZE);
    const states = [...crashStates(driver.log, new SeededRandom(1), 100)];
    expect(states).toHaveLength(1);
  });

  it("reach every part of what was not flushed, torn at sectors, and keep all that was", () => {
    const timeline = new Timeline();
    const driver = new RecordedDriver(3 * SECTOR_SIZE, timeline);
    const runner = new SimulatedRunner(1);
    const disk = new ObservedDisk(driver, new DurabilityModel(3 * SECTOR_SIZE, timeline));
    runner.run(disk.write(0, new Uint8Array(3 * SECTOR_SIZE).fill(1)));
    runner.run(disk.flush());
    const flushed = driver.log.entries.at(-1)?.completed ?? 0;
    runner.run(disk.write(0, new Uint8Array(3 * SECTOR_SIZE).fill(2)));
    const found = new Set<string>();
    for (const { image, time } of crashStates(driver.log, new SeededRandom(4), 1000)) {
      const bytes = image.toBytes();
      if (time >= flushed) found.add([0, 1, 2].map((sector) => bytes[sector * SECTOR_SIZE]).join(""));
    }
    expect([...found].sort()).toEqual(["111", "112", "121", "122", "211", "212", "221", "222"]);
  });
});

describe("durability model", () => {
  const one = new Uint8Array(SECTOR_SIZE).fill(1);
  const two = new Uint8Array(SECTOR_SIZE).fill(2);
  const zeros = new Uint8Array(SECTOR_SIZE);

  it("allows either of two writes that met, and after them only these", () => {
    const model = new DurabilityModel(SECTOR_SIZE);
    const [first, second] = [one, two].map((bytes) => model.begin({ kind: "write", offset: 0, bytes }));
    if (first === undefined || second === undefined) throw new Error("unreachable");
    const early = model.timeline.next();
    expect(model.readMismatch(0, zeros, early)).toBeUndefined();
    model.end(second);
    model.end(first);
    const late = model.timeline.next();
    expect(model.readMismatch(0, one, late)).toBeUndefined();
    expect(model.readMismatch(0, two, late)).toBeUndefined();
    expect(model.readMismatch(0, zeros, late)).toMatch(/^sector 0 holds the initial content/);
    // A read that had begun before they ended may still have seen what was there before.
    expect(model.readMismatch(0, zeros, early)).toBeUndefined();
  });

  it("allows a failed write, and what was there before", () => {
    const model = new DurabilityModel(one);
    model.end(model.begin({ kind: "write", offset: 0, bytes: two }), false);
    const now = model.timeline.next();
    expect(model.readMismatch(0, one, now)).toBeUndefined();
    expect(model.readMismatch(0, two, now)).toBeUndefined();
    expect(model.readMismatch(0, zeros, now)).toMatch(/unknown bytes/);
  });

  it("holds a write for durable after a later flush, or by itself with FUA", () => {
    const model = new DurabilityModel(SECTOR_SIZE);
    model.end(model.begin({ kind: "write", offset: 0, bytes: one }));
    const early = model.begin({ kind: "flush" });
    model.end(model.begin({ kind: "write", offset: 0, bytes: two }));
    model.end(early);
    const crash = model.timeline.next();
    expect(model.crashMismatch(0, zeros, crash)).toMatch(/should hold write/);
    expect(model.crashMismatch(0, one, crash)).toBeUndefined();
    expect(model.crashMismatch(0, two, crash)).toBeUndefined();
    model.end(model.begin({ kind: "zero", offset: 0, length: SECTOR_SIZE, fua: true }));
    const later = model.timeline.next();
    expect(model.crashMismatch(0, zeros, later)).toBeUndefined();
    expect(model.crashMismatch(0, two, later)).toMatch(/should hold zero/);
    expect(model.crashMismatch(0, two, crash)).toBeUndefined();
  });

  it("allows zeros or the bytes from before after a discard, never older ones", () => {
    const model = new DurabilityModel(one);
    model.end(model.begin({ kind: "write", offset: 0, bytes: two }));
    model.end(model.begin({ kind: "discard", offset: 0, length: SECTOR_SIZE }));
    const now = model.timeline.next();
    expect(model.readMismatch(0, zeros, now)).toBeUndefined();
    expect(model.readMismatch(0, two, now)).toBeUndefined();
    expect(model.readMismatch(0, one, now)).toMatch(/initial content/);
  });
});

describe("observed disk", () => {
  it("finds a write that is lost when two meet in one cluster", () => {
    const CLUSTER = 8 * SECTOR_SIZE;
    // Reads, changes and writes whole clusters without keeping others away meanwhile.
    class Careless extends RecordedDriver {
      override *write(offset: number, vector: IoVector): Co<void> {
        const start = offset - (offset % CLUSTER);
        const bytes = new Uint8Array(Math.ceil((offset + vector.length - start) / CLUSTER) * CLUSTER);
        yield* super.read(start, IoVector.of(bytes));
        vector.copyTo(bytes.subarray(offset - start));
        yield* super.write(start, IoVector.of(bytes));
      }
    }
    let found = 0;
    for (let seed = 1; seed <= 20; seed++) {
      const timeline = new Timeline();
      try {
        simulate(seed, new Careless(LENGTH + CLUSTER, timeline), new DurabilityModel(LENGTH, timeline));
      } catch (error) {
        expect(String(error)).toMatch(/wrong data/);
        found += 1;
      }
    }
    expect(found).toBeGreaterThan(0);
  });

  it("runs many requests side by side", () => {
    const timeline = new Timeline();
    const disk = new ObservedDisk(new RecordedDriver(LENGTH, timeline), new DurabilityModel(LENGTH, timeline));
    const runner = new SimulatedRunner(9);
    const random = new SeededRandom(9);
    runner.run(join(Array.from({ length: 20 }, () => guest(disk, new SeededRandom(random.u32()), 10))));
    expect(runner.alive).toBe(0);
  });
});
