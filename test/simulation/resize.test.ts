/**
 * A disk that gets longer and shorter under its guests, by every way that leads to it: what is beyond the end is refused,
 * what is inside is done, and what was cut off never comes back.
 */
import { type Co, isBlockError, SECTOR_SIZE, SeededRandom, sleep, until } from "@spindle/base";
import { type BlockNode, IoVector } from "@spindle/block";
import { qcow2Format } from "@spindle/formats";
import { ThreadTable } from "@spindle/shared-memory";
import { forEachSeed, SimulatedRunner, SparseBytes } from "@spindle/testkit";
import { describe, expect, it } from "vitest";
import { ACCESS_KINDS, type AccessKind, openAccess } from "./guest-access.ts";
import { openGraph, stampedSectors } from "./image-chain.ts";
import { SimulatedStorage } from "./storage.ts";

const SECTORS_MAX = 160;
const GUESTS = 3;
const REQUESTS = 40;
const RESIZES = 12;

/** A request under way: its sectors, and the shortest and longest length that the disk has had meanwhile. */
interface InFlight {
  readonly start: number;
  readonly end: number;
  shortest: number;
  longest: number;
  /** Sectors of it were cut off meanwhile, from this one on. */
  cutFrom: number;
}

/** What is known of the disk: each sector may hold one of some stamps, 0 for zeros. Lengths are sectors. */
class ResizedDisk {
  readonly holds: Set<number>[] = Array.from({ length: SECTORS_MAX }, () => new Set([0]));
  readonly inFlight: Set<InFlight> = new Set();
  refused = 0;
  done = 0;
  #lengths: readonly number[];

  constructor(length: number) {
    this.#lengths = [length];
  }

  get length(): number {
    return this.#lengths[0] as number;
  }

  /** A change begins: until it has ended, requests may find the old length or the new one. */
  resizing(length: number): void {
    this.#lengths = [this.length, length];
    for (const request of this.inFlight) this.#see(request);
  }

  resized(length: number): void {
    this.#lengths = [length];
    for (let sector = length; sector < SECTORS_MAX; sector++) this.holds[sector] = new Set([0]);
    for (const request of this.inFlight) request.cutFrom = Math.min(request.cutFrom, length);
  }

  *request(start: number, end: number, work: Co<void>): Co<InFlight | undefined> {
    const request = { start, end, shortest: Number.POSITIVE_INFINITY, longest: 0, cutFrom: Number.POSITIVE_INFINITY };
    this.#see(request);
    this.inFlight.add(request);
    try {
      yield* work;
    } catch (error) {
      if (!isBlockError(error)) throw error;
      expect(request.shortest, `${error.message}, although sectors ${start} to ${end} were there`).toBeLessThan(end);
      this.refused += 1;
      return undefined;
    } finally {
      this.inFlight.delete(request);
    }
    expect(request.longest, `sectors ${start} to ${end} were never there`).toBeGreaterThanOrEqual(end);
    this.done += 1;
    return request;
  }

  #see(request: InFlight): void {
    request.shortest = Math.min(request.shortest, ...this.#lengths);
    request.longest = Math.max(request.longest, ...this.#lengths);
  }
}

/** Works on every so-many-th run of sectors, one request after the other. */
function* guest(disk: { read: BlockNode["read"]; write: BlockNode["write"] }, model: ResizedDisk, number: number) {
  const random = new SeededRandom(number + 77);
  for (let count = 0; count < REQUESTS; count++) {
    const start = (random.below(SECTORS_MAX / 4 / GUESTS) * GUESTS + number) * 4;
    const end = start + 1 + random.below(4);
    const bytes = (end - start) * SECTOR_SIZE;
    const stamp = 1 + number * REQUESTS + count;
    if (random.chance(0.5)) {
      const data = IoVector.of(stampedSectors(stamp, start * SECTOR_SIZE, bytes));
      const done = yield* model.request(start, end, disk.write(start * SECTOR_SIZE, data));
      for (let sector = start; sector < end; sector++) {
        const held = model.holds[sector] as Set<number>;
        // What is refused may have been written in part, and what was cut off meanwhile may have been written before or after.
        if (done !== undefined && sector < done.cutFrom) held.clear();
        held.add(stamp);
      }
    } else {
      const before = model.holds.slice(start, end).map((held) => new Set(held));
      const buffer = new Uint8Array(bytes).fill(0xee);
      const done = yield* model.request(start, end, disk.read(start * SECTOR_SIZE, IoVector.of(buffer)));
      if (done === undefined) continue;
      for (let sector = start; sector < end; sector++) {
        const at = (sector - start) * SECTOR_SIZE;
        const possible = new Set([...(before[sector - start] as Set<number>), ...(sector < done.cutFrom ? [] : [0])]);
        const fits = [...possible].some((one) => {
          const expected =
            one === 0 ? new Uint8Array(SECTOR_SIZE) : stampedSectors(one, sector * SECTOR_SIZE, SECTOR_SIZE);
          return Buffer.compare(buffer.subarray(at, at + SECTOR_SIZE), expected) === 0;
        });
        expect(fits, `sector ${sector} holds none of ${[...possible]}`).toBe(true);
      }
    }
  }
}

function runResizes(seed: number, kind: AccessKind, format: "raw" | "qcow2"): ResizedDisk {
  const random = new SeededRandom(seed);
  const runner = new SimulatedRunner(seed, { stallChance: 0.3 });
  const storage = new SimulatedStorage();
  const table = ThreadTable.create();
  const thread = new ThreadTable(table).attach();
  const graph = openGraph({ clock: runner.clock, random, storage, thread });
  const length = (1 + random.below(SECTORS_MAX)) * SECTOR_SIZE;
  storage.put("disk", new SparseBytes(format === "raw" ? length : 0));
  const node = runner.run(
    (function* () {
      const file = { driver: "file", filename: "disk" };
      if (format === "qcow2") {
        const raw = yield* graph.open(file);
        const options = { cluster_size: random.pick(["512", "2048", "4096"]) };
        yield* qcow2Format.create?.(raw, { size: length, options }, graph.environment) as Co<void>;
        yield* graph.remove(raw.name);
      }
      return yield* graph.open({ driver: format, file });
    })(),
  );
  const model = new ResizedDisk(length / SECTOR_SIZE);
  node.onLength((now) => model.resized(now / SECTOR_SIZE));
  const access = openAccess({ kind, node, guests: GUESTS, runner, storage, thread, table });
  let running = GUESTS;
  function* resizer(): Co<void> {
    for (let count = 0; count < RESIZES; count++) {
      yield* sleep(runner.clock, random.below(6));
      const wanted = 1 + random.below(SECTORS_MAX);
      model.resizing(wanted);
      yield* node.truncate(wanted * SECTOR_SIZE);
      expect(model.length).toBe(wanted);
    }
  }
  function* guestUntilDone(number: number): Co<void> {
    yield* guest(access.disks[number] as BlockNode, model, number);
    running -= 1;
  }
  const guests = Array.from({ length: GUESTS }, (_, number) => guestUntilDone(number));
  runner.runAll([resizer(), ...guests]);
  runner.run(until(() => running === 0));
  runner.run(access.close());
  expect(node.tracker?.inFlight()).toEqual([]);
  runner.run(graph.close());
  return model;
}

describe("a disk that gets longer and shorter under its guests", () => {
  it.each(ACCESS_KINDS.flatMap((kind) => (["raw", "qcow2"] as const).map((format) => [kind, format] as const)))(
    "does what is inside, refuses what is not, and shows nothing twice: %s, %s",
    async (kind, format) => {
      const sums = { done: 0, refused: 0 };
      await forEachSeed(15, (seed) => {
        const { done, refused } = runResizes(seed, kind, format);
        sums.done += done;
        sums.refused += refused;
      });
      expect(sums.done).toBeGreaterThan(300);
      expect(sums.refused).toBeGreaterThan(100);
    },
  );
});
