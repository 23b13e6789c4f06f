/**
 * What every block driver must do, whatever it stores its bytes in: the contract of `block/src/driver.ts` as tests. The
 * oracle is a model disk.
 */
import { alignDown, alignUp, type Co, isBlockError, join, SECTOR_SIZE, SeededRandom } from "@spindle/base";
import { type BlockDriver, type Extent, IoVector } from "@spindle/block";
// biome-ignore lint/correctness/noUndeclaredDependencies: the workspace's root declares vitest for all tests.
import { describe, expect, it } from "vitest";
import { ModelDisk } from "./model-disk.ts";
import { randomBytes, randomPieces } from "./random-bytes.ts";
import { forEachSeed } from "./seeds.ts";

export interface DriverHarness {
  /** Opens a new disk of zeros. Each call has storage of its own. */
  open(length: number): Co<BlockDriver>;
  /** Opens the storage of a driver that was closed again. Left out by drivers whose storage dies with them. */
  reopen?(closed: BlockDriver): Co<BlockDriver>;
  /** What a write beyond the end makes longer becomes a multiple of so many bytes; 1 when left out. */
  readonly lengthUnit?: number;
  /** Runs a coroutine to its end. */
  run<T>(co: Co<T>): T | Promise<T>;
}

/** Large enough for several clusters of every format's default size, and no multiple of one. */
const DISK_LENGTH: number = 3 * 1024 * 1024 + 7 * SECTOR_SIZE;

/**
 * Declares the suite for one driver.
 * @param name what the driver is called in the report
 * @param makeHarness called once for each test
 */
export function describeDriver(name: string, makeHarness: () => DriverHarness | Promise<DriverHarness>): void {
  describe(`the driver contract: ${name}`, () => {
    for (const [promise, body] of CASES) {
      it(promise, async () => {
        const harness = await makeHarness();
        await body(harness);
      });
    }
  });
}

type Case = (harness: DriverHarness) => void | Promise<void>;

const CASES: readonly (readonly [promise: string, body: Case])[] = [
  ["a new disk has its length and reads as zeros", withDisk(isEmptyAtFirst)],
  ["reads back what was written, and leaves its neighbours alone", withDisk(readsBack)],
  ["takes requests in scattered buffers", withDisk(scatters)],
  ["zeroes a range, with and without giving its space back", withDisk(zeroes)],
  ["a discarded range reads as zeros or as before", withDisk(discards)],
  ["block status tiles the disk, and what it calls zero reads as zeros", withDisk(tiles)],
  ["what is added by truncate reads as zeros, also after it was cut off", withDisk(truncates)],
  ["a write beyond the end makes a growable disk longer", withDisk(grows)],
  ["requests on different clusters run side by side", withDisk(runsSideBySide)],
  ["any sequence of requests leaves what the model disk holds", followsTheModel],
  ["what was written is there after closing and opening again", survivesClosing],
];

function withDisk(body: (driver: BlockDriver, model: ModelDisk, lengthUnit: number) => Co<void>): Case {
  return async ({ open, run, lengthUnit = 1 }) => {
    await run(
      (function* (): Co<void> {
        const driver = yield* open(DISK_LENGTH);
        yield* body(driver, new ModelDisk(DISK_LENGTH), lengthUnit);
        yield* driver.close();
      })(),
    );
  };
}

function* isEmptyAtFirst(driver: BlockDriver, model: ModelDisk): Co<void> {
  expect(driver.length()).toBe(DISK_LENGTH);
  expect(Number.isInteger(Math.log2(driver.requestAlignment))).toBe(true);
  yield* verify(driver, model);
}

function* readsBack(driver: BlockDriver, model: ModelDisk): Co<void> {
  const unit = driver.requestAlignment;
  const random = new SeededRandom(1);
  const places = [0, unit, 64 * 1024 - unit, 1024 * 1024, DISK_LENGTH - 8192 - (DISK_LENGTH % unit)];
  for (const offset of places) yield* write(driver, model, offset, randomBytes(random, Math.max(unit, 8192)));
  yield* write(driver, model, 512 * 1024, randomBytes(random, 2 * 1024 * 1024));
  yield* verify(driver, model);
}

function* scatters(driver: BlockDriver, model: ModelDisk): Co<void> {
  const random = new SeededRandom(2);
  for (let round = 0; round < 8; round++) {
    const { offset, length } = randomRange(random, driver);
    const bytes = randomBytes(random, length);
    yield* driver.write(offset, new IoVector(randomPieces(random, bytes, 1)), {});
    model.write(offset, bytes);
    const target = new Uint8Array(length);
    yield* driver.read(offset, new IoVector(randomPieces(random, target, 1)));
    model.check(offset, target);
  }
  yield* verify(driver, model);
}

function* zeroes(driver: BlockDriver, model: ModelDisk): Co<void> {
  yield* fill(driver, model, 3);
  const random = new SeededRandom(3);
  for (const mayUnmap of [true, false]) {
    for (let round = 0; round < 4; round++) {
      const { offset, length } = randomRange(random, driver);
      yield* driver.writeZeroes(offset, length, { mayUnmap });
      model.writeZeroes(offset, length);
      yield* verify(driver, model);
    }
  }
}

function* discards(driver: BlockDriver, model: ModelDisk): Co<void> {
  yield* fill(driver, model, 4);
  const random = new SeededRandom(4);
  for (let round = 0; round < 6; round++) {
    const { offset, length } = randomRange(random, driver);
    yield* driver.discard(offset, length);
    model.discard(offset, length);
    yield* verify(driver, model);
  }
  const bytes = randomBytes(random, alignDown(DISK_LENGTH, driver.requestAlignment));
  yield* write(driver, model, 0, bytes);
  yield* verify(driver, model);
}

function* tiles(driver: BlockDriver, model: ModelDisk): Co<void> {
  const random = new SeededRandom(5);
  for (let round = 0; round < 6; round++) {
    const { offset, length } = randomRange(random, driver);
    yield* write(driver, model, offset, randomBytes(random, length));
  }
  yield* driver.writeZeroes(0, 128 * 1024, { mayUnmap: true });
  model.writeZeroes(0, 128 * 1024);
  yield* checkStatus(driver, model, 0, DISK_LENGTH);
  for (let round = 0; round < 6; round++) {
    const { offset, length } = randomRange(random, driver);
    yield* checkStatus(driver, model, offset, length);
  }
}

function* checkStatus(driver: BlockDriver, model: ModelDisk, offset: number, length: number): Co<void> {
  for (let at = offset; at < offset + length; ) {
    const extent: Extent = yield* driver.blockStatus(at, offset + length - at);
    expect(extent.length).toBeGreaterThan(0);
    expect(at + extent.length).toBeLessThanOrEqual(offset + length);
    const bytes = new Uint8Array(extent.length).fill(0xee);
    yield* driver.read(at, IoVector.of(bytes));
    model.check(at, bytes);
    if (extent.zero || !extent.allocated) {
      const nonZero = bytes.findIndex((byte) => byte !== 0);
      expect(nonZero, `in ${at}+${extent.length}, which is called zero or unallocated`).toBe(-1);
    }
    if (extent.data) expect(extent.allocated).toBe(true);
    at += extent.length;
  }
}

function* truncates(driver: BlockDriver, model: ModelDisk): Co<void> {
  yield* fill(driver, model, 6);
  const unit = Math.max(driver.requestAlignment, SECTOR_SIZE);
  const lengths = [DISK_LENGTH + 200 * 1024, 1024 * 1024 + 3 * unit, 2 * 1024 * 1024 + 64 * 1024];
  for (const wanted of lengths.map((length) => alignDown(length, unit))) {
    try {
      yield* driver.truncate(wanted);
    } catch (error) {
      // Drivers may refuse to change their length, or to shrink; then nothing has changed.
      expect(isBlockError(error, "ENOTSUP"), String(error)).toBe(true);
      expect(driver.length()).toBe(model.length);
      continue;
    }
    model.truncate(wanted);
    expect(driver.length()).toBe(wanted);
    yield* verify(driver, model);
  }
}

function* grows(driver: BlockDriver, model: ModelDisk, lengthUnit: number): Co<void> {
  if (driver.growable !== true) return;
  const random = new SeededRandom(7);
  yield* write(driver, model, DISK_LENGTH - 100, randomBytes(random, 300));
  model.truncate(alignUp(model.length, lengthUnit));
  yield* write(driver, model, DISK_LENGTH + 100_000, randomBytes(random, 1000));
  model.truncate(alignUp(model.length, lengthUnit));
  yield* driver.writeZeroes(driver.length() + 5000, 5000, { mayUnmap: true });
  model.writeZeroes(model.length + 5000, 5000);
  model.truncate(alignUp(model.length, lengthUnit));
  expect(driver.length()).toBe(model.length);
  yield* verify(driver, model);
}

function* runsSideBySide(driver: BlockDriver, model: ModelDisk): Co<void> {
  const random = new SeededRandom(8);
  const stripe = Math.max(driver.clusterSize, driver.requestAlignment, 4096) * 2;
  const count = Math.min(64, Math.floor(DISK_LENGTH / stripe));
  for (let round = 0; round < 4; round++) {
    const requests: Co<void>[] = [];
    for (let index = 0; index < count; index++) {
      const offset = index * stripe;
      if (random.chance(0.3)) requests.push(readAndCheck(driver, model, offset, stripe));
      else requests.push(write(driver, model, offset, randomBytes(random, stripe)));
      if (random.chance(0.05)) requests.push(driver.flush());
    }
    yield* join(requests);
    yield* verify(driver, model);
  }
}

function followsTheModel({ open, run }: DriverHarness): Promise<void> {
  return forEachSeed(3, async (seed) => {
    await run(
      (function* (): Co<void> {
        const driver = yield* open(DISK_LENGTH);
        const model = new ModelDisk(DISK_LENGTH);
        const random = new SeededRandom(seed);
        for (let step = 0; step < 120; step++) yield* randomStep(driver, model, random);
        yield* verify(driver, model);
        yield* checkStatus(driver, model, 0, model.length);
        yield* driver.close();
      })(),
    );
  });
}

function* randomStep(driver: BlockDriver, model: ModelDisk, random: SeededRandom): Co<void> {
  const { offset, length } = randomRange(random, driver);
  const choice = random.below(100);
  if (choice < 50) yield* write(driver, model, offset, randomBytes(random, length));
  else if (choice < 75) yield* readAndCheck(driver, model, offset, length);
  else if (choice < 85) {
    yield* driver.writeZeroes(offset, length, { mayUnmap: random.chance(0.5) });
    model.writeZeroes(offset, length);
  } else if (choice < 95) {
    yield* driver.discard(offset, length);
    model.discard(offset, length);
  } else yield* driver.flush();
}

async function survivesClosing({ open, reopen, run }: DriverHarness): Promise<void> {
  if (reopen === undefined) return;
  await run(
    (function* (): Co<void> {
      let driver = yield* open(DISK_LENGTH);
      const model = new ModelDisk(DISK_LENGTH);
      const random = new SeededRandom(9);
      for (let round = 0; round < 3; round++) {
        for (let step = 0; step < 20; step++) yield* randomStep(driver, model, random);
        yield* driver.close();
        driver = yield* reopen(driver);
        expect(driver.length()).toBe(model.length);
        yield* verify(driver, model);
      }
      yield* driver.close();
    })(),
  );
}

function* write(driver: BlockDriver, model: ModelDisk, offset: number, bytes: Uint8Array): Co<void> {
  yield* driver.write(offset, IoVector.of(bytes), {});
  model.write(offset, bytes);
}

function* fill(driver: BlockDriver, model: ModelDisk, seed: number): Co<void> {
  yield* write(driver, model, 0, randomBytes(new SeededRandom(seed), DISK_LENGTH));
}

function* readAndCheck(driver: BlockDriver, model: ModelDisk, offset: number, length: number): Co<void> {
  const bytes = new Uint8Array(length).fill(0xee);
  yield* driver.read(offset, IoVector.of(bytes));
  model.check(offset, bytes);
}

function* verify(driver: BlockDriver, model: ModelDisk): Co<void> {
  yield* readAndCheck(driver, model, 0, model.length);
}

/** A range of whole request units, most of them small, some of several clusters. */
function randomRange(random: SeededRandom, driver: BlockDriver): { offset: number; length: number } {
  const unit = driver.requestAlignment;
  const longest = random.chance(0.2) ? 300 * 1024 : 16 * 1024;
  const length = Math.max(unit, alignDown(1 + random.below(longest), unit));
  return { offset: alignDown(random.below(DISK_LENGTH - length), unit), length };
}
