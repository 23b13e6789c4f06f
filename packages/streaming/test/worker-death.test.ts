/**
 * The owner's side of the pool and the workers' side under one seeded scheduler, with guests beside them and workers that
 * die at any step. Images are real qcow2 files, so qemu-img has the last word.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join as joinPath } from "node:path";
import { type Co, isBlockError, join, SeededRandom, sleep, until } from "@spindle/base";
import { type BlockNode, DriverRegistry, Graph, IoVector } from "@spindle/block";
import { qcow2Format, rawFormat } from "@spindle/formats";
import { createFile, fileDriver } from "@spindle/host-node";
import { type CopierOptions, type Job, JobRegistry, startStream } from "@spindle/jobs";
import { RangeLock, type Thread, ThreadTable } from "@spindle/shared-memory";
import { SimulatedRunner } from "@spindle/testkit";
import { peer } from "@spindle/testkit/peers";
import { describe, expect, it } from "vitest";
import { CopyChannel } from "../src/copy-channel.ts";
import { CopyLane } from "../src/copy-lane.ts";
import { CopyServer } from "../src/copy-server.ts";
import type { LaneUser } from "../src/lane-starter.ts";
import { MeteredWaiter } from "../src/metered-waiter.ts";
import { type LaneSource, PoolCopier } from "../src/pool-copier.ts";
import { patchy, runProgram, sameBytes } from "./pool-world.ts";

const qemuImg = peer("qemu-img");
const CLUSTER = 4096;
const SIZE = 192 * CLUSTER + 512;

interface Worker {
  readonly lane: CopyLane;
  dead: boolean;
  running: number;
}

/** Workers as coroutines of the simulation. A dead one does not go on; its operation under way still takes effect. */
class SimulatedWorkers implements LaneSource {
  readonly #runner: SimulatedRunner;
  readonly #random: SeededRandom;
  readonly #owner: Thread;
  readonly #options: CopierOptions;
  readonly #workers = new Set<Worker>();
  #user: LaneUser | undefined;
  #closing = false;
  restarts = 0;
  failure: undefined;

  constructor(runner: SimulatedRunner, random: SeededRandom, owner: Thread, options: CopierOptions) {
    this.#runner = runner;
    this.#random = random;
    this.#owner = owner;
    this.#options = options;
  }

  start(count: number, user: LaneUser): void {
    this.#user = user;
    for (let index = 0; index < count; index++) this.#runner.spawn(this.#begin(user), () => {});
  }

  *close(): Co<void> {
    this.#closing = true;
    yield* until(() => this.#workers.size === 0);
  }

  /** Kills one worker, if there is any; its end is told when nothing of it moves any more, as with threads. */
  *kill(): Co<void> {
    const alive = [...this.#workers].filter((worker) => !worker.dead);
    if (alive.length === 0 || this.#closing) return;
    const victim = this.#random.pick(alive);
    victim.dead = true;
    yield* until(() => victim.running === 0);
    this.#workers.delete(victim);
    this.restarts += 1;
    if (!this.#closing && this.#random.chance(0.8)) this.start(1, this.#user as LaneUser);
    this.#user?.laneDied(victim.lane);
  }

  *#begin(user: LaneUser): Co<void> {
    yield* sleep(this.#runner.clock, this.#random.below(5));
    if (this.#closing) return;
    const { top, chunk } = this.#options;
    const channel = CopyChannel.create(4, chunk / CLUSTER);
    const lane = new CopyLane({
      channel: new CopyChannel(channel),
      owner: this.#owner,
      workerThread: this.#owner.index,
      clusterSize: CLUSTER,
      depth: undefined,
    });
    const worker: Worker = { lane, dead: false, running: 0 };
    const server = new CopyServer({
      channel: new CopyChannel(channel),
      chain: top.children.backing as BlockNode,
      targetDescriptor: top.children.file?.driver.fileDescriptor as number,
      clusterSize: CLUSTER,
      copyBytesMax: chunk,
      runner: { spawn: (co, settled) => this.#spawnMortal(co as Co<void>, worker, settled) },
      waiter: new MeteredWaiter(this.#owner, this.#runner.clock),
      ringOwner: () => {},
    });
    this.#workers.add(worker);
    this.#spawnMortal(server.serve(), worker, () => {
      if (!worker.dead) this.#workers.delete(worker);
    });
    user.laneStarted(lane);
  }

  #spawnMortal(co: Co<void>, worker: Worker, settled: (error: unknown) => void): void {
    worker.running += 1;
    this.#runner.spawn(mortal(co, worker), (error) => {
      worker.running -= 1;
      settled(error);
    });
  }
}

/** Runs a coroutine until its worker dies. A condition ends with the worker, an operation with its effect. */
function* mortal(co: Co<void>, worker: Worker): Co<void> {
  let step = co.next();
  while (step.done !== true) {
    const suspension = step.value;
    let result: unknown;
    if (suspension.kind === "condition") yield* until(() => worker.dead || suspension.ready());
    else result = yield suspension;
    if (worker.dead) return;
    step = co.next(result);
  }
}

/** Guests that write sectors of their own. */
function* guest(
  runner: SimulatedRunner,
  random: SeededRandom,
  top: BlockNode,
  model: Uint8Array,
  self: number,
): Co<void> {
  for (let request = 0; request < 12; request++) {
    yield* sleep(runner.clock, random.below(60));
    const sector = random.below(Math.floor(SIZE / 512 / 2)) * 2 + self;
    const offset = sector * 512;
    if (offset + 512 > SIZE) continue;
    const bytes = new Uint8Array(512).fill(random.chance(0.3) ? 0 : 1 + random.below(255));
    if (bytes[0] === 0) yield* top.writeZeroes(offset, 512);
    else yield* top.write(offset, IoVector.of(bytes));
    model.set(bytes, offset);
  }
}

function* openAll(graph: Graph, folder: string): Co<BlockNode> {
  const path = joinPath(folder, "top.qcow2");
  yield* createFile(path);
  const file = yield* graph.open({ driver: "file", "node-name": "new", filename: path });
  const backing = { filename: joinPath(folder, "base.raw"), format: "raw" };
  const options = { size: SIZE, backing, options: { cluster_size: String(CLUSTER) } };
  yield* qcow2Format.create?.(file, options, graph.environment) as Co<void>;
  yield* graph.remove("new");
  return yield* graph.open({ driver: "qcow2", "node-name": "top", file: { driver: "file", filename: path } });
}

function play(seed: number, folder: string): { redone: number; copies: number } {
  const runner = new SimulatedRunner(seed);
  const random = new SeededRandom(seed ^ 0x51ab);
  const owner = new ThreadTable(ThreadTable.create()).attach();
  const graph = new Graph({
    environment: runner.environment(),
    registry: new DriverRegistry([fileDriver, rawFormat, qcow2Format]),
    backingPolicy: {
      *resolve(_image, backing) {
        return backing.filename;
      },
    },
    createTracker: () => new RangeLock(RangeLock.create({ slots: 128 }), owner),
  });
  const top = runner.run(openAll(graph, folder));
  const model = new Uint8Array(SIZE);
  runner.run(top.read(0, IoVector.of(model)));
  const jobs = new JobRegistry({ clock: runner.clock, runner });
  let workers: SimulatedWorkers | undefined;
  const context = {
    graph,
    jobs,
    *createCopier(options: CopierOptions) {
      workers = new SimulatedWorkers(runner, random, owner, options);
      const { clusters } = options.top.driver;
      if (clusters === undefined) throw new Error("no clusters");
      return new PoolCopier({ ...options, clusters, clock: runner.clock, runner, starter: workers, workers: 2 });
    },
  };
  const chunk = CLUSTER * random.pick([1, 2, 5, 16]);
  const job = runner.run(startStream(context, { jobId: "j", node: top, chunk, speed: 2 * 1024 * 1024 }));
  function* reaper(): Co<void> {
    yield* sleep(runner.clock, 60);
    while (!job.over) {
      yield* sleep(runner.clock, random.below(40));
      yield* workers?.kill() ?? until(() => true);
    }
  }
  function* user(running: Job): Co<void> {
    yield* sleep(runner.clock, random.below(300));
    try {
      running.setSpeed(0);
    } catch (error) {
      if (!isBlockError(error)) throw error;
    }
  }
  runner.run(
    join([reaper(), user(job), job.ended(), ...[0, 1].map((self) => guest(runner, random, top, model, self))]),
  );
  runner.drain();
  expect(job.failure).toBeUndefined();
  const after = new Uint8Array(SIZE);
  runner.run(top.read(0, IoVector.of(after)));
  expect(sameBytes(after, model)).toBe(true);
  const statistics = job.blockJobInfo()["x-statistics"] ?? {};
  runner.run(graph.close());
  return { redone: Number(statistics["copies-redone"]), copies: Number(statistics["copies"]) };
}

describe("workers that die at any step", () => {
  it("cost nothing but time: every copy is done, no write is lost, no cluster leaks", () => {
    const folder = mkdtempSync(joinPath(tmpdir(), "worker-death-"));
    writeFileSync(joinPath(folder, "base.raw"), patchy(1, SIZE));
    const sum = { redone: 0, copies: 0 };
    try {
      for (let seed = 1; seed <= 60; seed++) {
        try {
          const { redone, copies } = play(seed, folder);
          sum.redone += redone;
          sum.copies += copies;
          if (qemuImg !== undefined) runProgram(qemuImg, ["check", joinPath(folder, "top.qcow2")]);
        } catch (error) {
          throw new Error(`seed ${seed}`, { cause: error });
        }
      }
    } finally {
      rmSync(folder, { recursive: true });
    }
    expect(sum.copies).toBeGreaterThan(1000);
    expect(sum.redone).toBeGreaterThan(60);
  });
});
