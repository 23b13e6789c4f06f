/**
 * Guests that write, zero, discard and read while a stream runs, under the seeded scheduler. Every sector has one writer,
 * so what it must hold is known at any time, while clusters are fought over by many writers and the copies.
 */
import { BlockError, type Co, isBlockError, join, sleep } from "@spindle/base";
import { type BlockNode, IoVector } from "@spindle/block";
import { describe, expect, it } from "vitest";
import { type Job, startStream } from "../src/index.ts";
import { StreamWorld, stamped } from "./stream-world.ts";

const SECTOR = 512;
const GUESTS = 3;

/** What the disk must hold. */
class Model {
  readonly bytes: Uint8Array;
  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }
}

interface Chaos {
  /** How the job is disturbed besides the guests. */
  readonly meddle?: (world: StreamWorld, job: Job) => Co<void>;
  /** Guests' requests each. */
  readonly requests: number;
}

/** A random chain with random contents, whose layers differ in length and end anywhere. */
function randomChain(world: StreamWorld): BlockNode[] {
  const { random } = world;
  const clusterSize = random.pick([1024, 2048, 4096, 16384]);
  const depth = 2 + random.below(3);
  const names = ["base", "middle", "upper", "top"].slice(4 - depth);
  const size = SECTOR * (40 + random.below(200));
  const layers = names.map((name, index) => ({
    name,
    size: index === depth - 1 ? size : SECTOR * (20 + random.below(240)),
    clusterSize: index === depth - 1 ? clusterSize : random.pick([1024, 4096, 8192]),
  }));
  const nodes = world.open(layers);
  nodes.forEach((node, index) => {
    world.scribble(node, index + 1, index === depth - 1 ? 0.15 : 0.6);
  });
  return nodes;
}

/** One guest: a series of requests of which it knows every result. It owns every sector with its number. */
function* guest(world: StreamWorld, top: BlockNode, model: Model, self: number, requests: number): Co<void> {
  const { random } = world;
  const sectors = Math.floor(top.length / SECTOR);
  for (let request = 0; request < requests; request++) {
    const first = random.below(sectors);
    const sector = first - (first % GUESTS) + self;
    if (sector >= sectors) continue;
    const offset = sector * SECTOR;
    const part = (): Uint8Array => model.bytes.subarray(offset, offset + SECTOR);
    if (random.chance(0.3)) yield* sleep(world.runner.clock, random.below(5));
    switch (random.below(4)) {
      case 0:
      case 1: {
        const bytes = stamped(SECTOR, 50 + self * 60 + request, offset);
        yield* top.write(offset, IoVector.of(bytes));
        part().set(bytes);
        break;
      }
      case 2:
        yield* top.writeZeroes(offset, SECTOR, { mayUnmap: random.chance(0.5) });
        part().fill(0);
        break;
      default: {
        const seen = new Uint8Array(SECTOR);
        yield* top.read(offset, IoVector.of(seen));
        expect(seen).toEqual(part());
      }
    }
  }
}

function* everything(world: StreamWorld, top: BlockNode, model: Model, job: Job, chaos: Chaos): Co<void> {
  const tasks = Array.from({ length: GUESTS }, (_, self) => guest(world, top, model, self, chaos.requests));
  if (chaos.meddle !== undefined) tasks.push(chaos.meddle(world, job));
  tasks.push(job.ended());
  yield* join(tasks);
}

function race(seed: number, chaos: Chaos, options: Partial<Parameters<typeof startStream>[1]> = {}) {
  const world = new StreamWorld(seed);
  const nodes = randomChain(world);
  const top = nodes.at(-1) as BlockNode;
  const { random } = world;
  const base = random.chance(0.4) ? (nodes[random.below(nodes.length - 1)] as BlockNode) : undefined;
  const model = new Model(world.contents(top));
  const job = world.runner.run(
    startStream(world.context, {
      jobId: "j",
      node: top,
      chunk: random.pick([1024, 4096, 20000, 65536]),
      depth: 1 + random.below(8),
      ...(base === undefined ? {} : { baseNode: base.name }),
      ...options,
    }),
  );
  world.runner.run(everything(world, top, model, job, chaos));
  world.runner.drain();
  expect(world.contents(top)).toEqual(model.bytes);
  return { world, top, base, job, model };
}

/** Whether all that the stream was to fill is there: nothing but the base may show through. */
function expectDetached(top: BlockNode, base: BlockNode | undefined): void {
  expect(top.children.backing).toBe(base ?? null);
}

describe("guest and stream at once", () => {
  it("loses no write, resurrects nothing, and finishes", () => {
    for (let seed = 1; seed <= 250; seed++) {
      try {
        const { top, base, job } = race(seed, { requests: 25 });
        expect(job.failure).toBeUndefined();
        expectDetached(top, base);
      } catch (error) {
        throw new Error(`seed ${seed}`, { cause: error });
      }
    }
  });

  it("survives pause, resume and changes of speed at any time", () => {
    function* meddle(world: StreamWorld, job: Job): Co<void> {
      const { random } = world;
      for (let round = 0; round < 8; round++) {
        yield* sleep(world.runner.clock, random.below(10));
        try {
          const action = random.below(3);
          if (action === 0) job.pause();
          else if (action === 1) job.resume();
          else job.setSpeed(random.pick([0, 50_000, 1_000_000]));
          if (job.status === "paused")
            expect(job.blockJobInfo()["x-statistics"]).toMatchObject({ "copies-in-flight": 0 });
        } catch (error) {
          if (!isBlockError(error)) throw error;
        }
      }
      if (job.over || job.status === "waiting" || job.status === "pending") return;
      if (job.pauseRequested) job.resume();
      job.setSpeed(0);
    }
    for (let seed = 1; seed <= 100; seed++) {
      try {
        const { top, base, job } = race(seed, { requests: 20, meddle });
        expect(job.failure).toBeUndefined();
        expectDetached(top, base);
      } catch (error) {
        throw new Error(`seed ${seed}`, { cause: error });
      }
    }
  });

  it("leaves a valid image when it is cancelled at any step, and a second stream does the rest", () => {
    let unfinished = 0;
    for (let seed = 1; seed <= 100; seed++) {
      try {
        function* meddle(world: StreamWorld, job: Job): Co<void> {
          yield* sleep(world.runner.clock, world.random.below(40));
          if (!job.over && job.status !== "aborting") job.cancel();
        }
        const { world, top, base, model } = race(seed, { requests: 10, meddle });
        if (top.children.backing === (base ?? null)) continue;
        unfinished += 1;
        expect(world.events.at(-3)).toBe("BLOCK_JOB_CANCELLED");
        const again = world.runner.run(startStream(world.context, { jobId: "again", node: top }));
        world.runner.run(again.ended());
        expect(top.children.backing).toBeNull();
        expect(world.contents(top)).toEqual(model.bytes);
      } catch (error) {
        throw new Error(`seed ${seed}`, { cause: error });
      }
    }
    expect(unfinished).toBeGreaterThan(25);
  });

  it("gets through errors at every step when it is told to stop and resumed", () => {
    let stops = 0;
    for (let seed = 1; seed <= 100; seed++) {
      try {
        function* meddle(world: StreamWorld, job: Job): Co<void> {
          let armed = 3;
          const countdown = (): number => 5 + world.random.below(60);
          let left = countdown();
          world.image("top").fault = () => {
            // Only the job's own requests may fail: guests have none in flight when this is tested.
            if (armed === 0 || left-- > 0) return;
            armed -= 1;
            left = countdown();
            throw new BlockError(world.random.pick(["EIO", "ENOSPC"]), "injected");
          };
          while (!job.over) {
            yield* sleep(world.runner.clock, 1);
            if (job.status !== "paused") continue;
            stops += 1;
            job.resume();
          }
        }
        const { world, top, job, model } = race(seed, { requests: 0, meddle }, { onError: "stop" });
        // An error in the last steps ends the job; the image is whole all the same.
        if (job.failure === undefined) expect(job.offset).toBe(job.len);
        world.image("top").fault = () => {};
        expect(world.contents(top)).toEqual(model.bytes);
      } catch (error) {
        throw new Error(`seed ${seed}`, { cause: error });
      }
    }
    expect(stops).toBeGreaterThan(25);
  });

  it("copes with a disk that grows and shrinks meanwhile", () => {
    for (let seed = 1; seed <= 100; seed++) {
      try {
        const world = new StreamWorld(seed);
        const nodes = randomChain(world);
        const top = nodes.at(-1) as BlockNode;
        const before = world.contents(top);
        const shorter = SECTOR * world.random.below(before.length / SECTOR);
        const longer = before.length + SECTOR * world.random.below(100);
        const job = world.runner.run(startStream(world.context, { jobId: "j", node: top, chunk: 4096, depth: 4 }));
        function* resize(): Co<void> {
          yield* sleep(world.runner.clock, world.random.below(20));
          yield* top.truncate(shorter);
          yield* sleep(world.runner.clock, world.random.below(20));
          yield* top.truncate(longer);
        }
        world.runner.run(join([resize(), job.ended()]));
        expect(job.failure).toBeUndefined();
        const expected = new Uint8Array(longer);
        expected.set(before.subarray(0, shorter));
        expect(world.contents(top)).toEqual(expected);
        expect(top.children.backing).toBeNull();
      } catch (error) {
        throw new Error(`seed ${seed}`, { cause: error });
      }
    }
  });
});

describe("a copy and a guest's write that meet", () => {
  /** A slow base, so that copies are in flight for long. */
  function slowWorld() {
    const world = new StreamWorld(1, { latencyMs: [0.001, 0.002], slowChance: 0, stallChance: 0 });
    const size = 256 * 1024;
    const [, top] = world.open([
      { name: "base", size, filters: [{ driver: "delay", "read-ms": 100 }] },
      { name: "top", size },
    ]);
    if (top === undefined) throw new Error("no node");
    world.write(world.graph.lookup("base"), 0, stamped(size, 1, 0));
    return { world, top, size };
  }

  it("lets guest reads pass a copy in flight, and holds a write back until it has ended", () => {
    const { world, top } = slowWorld();
    const job = world.runner.run(startStream(world.context, { jobId: "j", node: top, chunk: 65536, depth: 4 }));
    const start = world.runner.clock.now();
    world.runner.runUntil(() => top.requestsInFlight === 4);
    const near = stamped(SECTOR, 2, 0);
    world.runner.run(top.write(0, IoVector.of(near)));
    expect(world.runner.clock.now() - start).toBeGreaterThanOrEqual(100);
    const seen = new Uint8Array(SECTOR);
    world.runner.run(top.read(0, IoVector.of(seen)));
    expect(seen).toEqual(near);
    world.runner.run(job.ended());
    expect(world.contents(top).subarray(0, SECTOR)).toEqual(near);
  });

  it("carves the clusters that a guest is writing out of a chunk and copies the rest of it at once", () => {
    const { world, top, size } = slowWorld();
    // The guest's write of part of a cluster has to fetch the rest from the slow base itself.
    let written = false;
    world.runner.spawn(top.write(6 * 4096 + 512, IoVector.of(stamped(SECTOR, 2, 6 * 4096 + 512))), () => {
      written = true;
    });
    world.runner.runUntil(() => top.requestsInFlight === 1);
    const start = world.runner.clock.now();
    const job = world.runner.run(startStream(world.context, { jobId: "j", node: top, chunk: size, depth: 4 }));
    world.runner.run(job.ended());
    expect(written).toBe(true);
    // One wait for the base for all: nobody has queued up behind the guest.
    expect(world.runner.clock.now() - start).toBeLessThan(150);
    const expected = stamped(size, 1, 0);
    expected.set(stamped(SECTOR, 2, 6 * 4096 + 512), 6 * 4096 + 512);
    expect(world.contents(top)).toEqual(expected);
    expect(job.blockJobInfo()["x-statistics"]).toMatchObject({
      "bytes-copied": size - 4096,
      "bytes-skipped-written": 4096,
    });
  });
});
