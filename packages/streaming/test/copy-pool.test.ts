import { readFileSync, truncateSync } from "node:fs";
import type { Worker } from "node:worker_threads";
import { SeededRandom } from "@spindle/base";
import { IoVector } from "@spindle/block";
import { peer } from "@spindle/testkit/peers";
import { afterEach, describe, expect, it } from "vitest";
import { MIB, PoolWorld, patchy, runProgram, sameBytes, soon } from "./pool-world.ts";

const qemuImg = peer("qemu-img");
const SUCCESS = ["created", "running", "waiting", "pending", "BLOCK_JOB_COMPLETED", "concluded", "null"];

const worlds: PoolWorld[] = [];

function makeWorld(workers?: number): PoolWorld {
  const world = new PoolWorld(workers);
  worlds.push(world);
  return world;
}

afterEach(async () => {
  for (const world of worlds.splice(0)) await world.close();
});

/** An empty qcow2 image over a raw one full of patches. */
async function simpleChain(world: PoolWorld, size: number, seed = 1) {
  const content = patchy(seed, size);
  world.writeRaw("base.raw", content);
  await world.createQcow2("top.qcow2", size, { filename: "base.raw", format: "raw" });
  const top = await world.openImage("top.qcow2", "qcow2");
  return { content, top };
}

/** The same, where every read of the base takes 20 ms longer. */
async function slowChain(world: PoolWorld, size: number, seed: number) {
  const content = patchy(seed, size, 0);
  world.writeRaw("base.raw", content);
  await world.createQcow2("top.qcow2", size);
  await world.openImage("base.raw", "raw", { "read-only": true });
  const delay = { driver: "delay", "node-name": "slow", file: "base", "read-ms": 20, "read-only": true };
  await world.runner.run(world.graph.open(delay));
  const top = await world.openImage("top.qcow2", "qcow2", { backing: "slow" });
  return { content, top };
}

describe("streaming with copy workers", () => {
  it("copies everything through the workers, stores no zeros, and leaves an image that qemu-img likes", async () => {
    const world = makeWorld();
    // The disk ends inside of its last cluster.
    const { content, top } = await simpleChain(world, 48 * MIB + 512);
    const job = await world.streamOnWorkers(top);
    expect(job.failure).toBeUndefined();
    expect(world.events).toEqual(SUCCESS);
    const statistics = job.blockJobInfo()["x-statistics"] ?? {};
    expect(statistics).toMatchObject({ copier: "pool", "copies-redone": 0, errors: 0 });
    expect(statistics["copies"]).toBeGreaterThan(20);
    expect(top.children.backing).toBeNull();
    expect(sameBytes(await world.contents(top), content)).toBe(true);
    await world.runner.run(world.graph.remove("top"));
    expect(readFileSync(world.path("top.qcow2")).length).toBeLessThan(content.length * 0.95);
    if (qemuImg === undefined) return;
    world.check(qemuImg, "top.qcow2");
    runProgram(qemuImg, ["compare", "-q", world.path("top.qcow2"), world.path("base.raw")]);
  });

  it("keeps what a guest writes, zeroes and discards meanwhile", async () => {
    const world = makeWorld();
    const { content, top } = await simpleChain(world, 32 * MIB, 2);
    const model = Buffer.from(content);
    const job = await world.start(top, { speed: MIB });
    void world.untilWorkers(job).then(() => job.setSpeed(20 * MIB));
    const random = new SeededRandom(7);
    const guest = async (self: number): Promise<void> => {
      for (let request = 0; request < 200; request++) {
        const sector = random.below(content.length / 512 / 4) * 4 + self;
        const bytes = new Uint8Array(512).fill(1 + random.below(255));
        const offset = sector * 512;
        const place = model.subarray(offset, offset + 512);
        if (request % 4 === 3) {
          await world.runner.run(top.writeZeroes(offset, 512));
          place.fill(0);
        } else {
          await world.runner.run(top.write(offset, IoVector.of(bytes)));
          place.set(bytes);
        }
        const seen = new Uint8Array(512);
        await world.runner.run(top.read(offset, IoVector.of(seen)));
        expect(sameBytes(seen, place)).toBe(true);
      }
    };
    await Promise.all([guest(0), guest(1), guest(2), guest(3)]);
    await world.untilWorkers(job);
    if (!job.over) job.setSpeed(0);
    await world.runner.run(job.ended());
    expect(job.failure).toBeUndefined();
    expect(job.blockJobInfo()["x-statistics"]?.["copies"]).toBeGreaterThan(10);
    expect(sameBytes(await world.contents(top), model)).toBe(true);
    await world.runner.run(world.graph.remove("top"));
    if (qemuImg !== undefined) world.check(qemuImg, "top.qcow2");
  });

  it("stops above a base that remains, and stores the zeros of what lies between", async () => {
    const world = makeWorld();
    const size = 40 * MIB;
    world.writeRaw("base.raw", patchy(3, size, 0));
    await world.createQcow2("middle.qcow2", size, { filename: "base.raw", format: "raw" });
    await world.createQcow2("top.qcow2", size, { filename: "middle.qcow2", format: "qcow2" });
    const middle = await world.openImage("middle.qcow2", "qcow2");
    await world.runner.run(middle.write(MIB, IoVector.of(patchy(4, 20 * MIB, 0.5))));
    await world.runner.run(middle.writeZeroes(30 * MIB, 4 * MIB));
    const top = await world.openImage("top.qcow2", "qcow2", { backing: "middle" });
    const before = await world.contents(top);
    const base = middle.children.backing;
    const job = await world.streamOnWorkers(top, { base: world.path("base.raw") });
    expect(job.failure).toBeUndefined();
    expect(job.blockJobInfo()["x-statistics"]).toMatchObject({ copier: "pool" });
    expect(top.children.backing).toBe(base);
    expect(sameBytes(await world.contents(top), before)).toBe(true);
    expect(top.driver.backingFile).toEqual({ filename: world.path("base.raw"), format: "raw" });
  });

  it.skipIf(qemuImg === undefined)("reads compressed images on the workers", async () => {
    const world = makeWorld();
    const size = 16 * MIB;
    const content = patchy(5, size, 0.7);
    world.writeRaw("plain.raw", content);
    const arguments_ = ["convert", "-q", "-c", "-O", "qcow2", "-f", "raw"];
    runProgram(qemuImg as string, [...arguments_, world.path("plain.raw"), world.path("base.qcow2")]);
    await world.createQcow2("top.qcow2", size, { filename: "base.qcow2", format: "qcow2" });
    const top = await world.openImage("top.qcow2", "qcow2");
    const job = await world.streamOnWorkers(top);
    const statistics = job.blockJobInfo()["x-statistics"] ?? {};
    expect(statistics).toMatchObject({ copier: "pool", errors: 0 });
    expect(statistics["copies"]).toBeGreaterThan(10);
    expect(sameBytes(await world.contents(top), content)).toBe(true);
  });

  it("hides the latency of a slow chain", async () => {
    const world = makeWorld();
    const { top } = await slowChain(world, 64 * MIB, 6);
    const start = performance.now();
    const job = await world.stream(top);
    const elapsedMs = performance.now() - start;
    expect(job.failure).toBeUndefined();
    // One chunk of 512 KiB after the other would take 2560 ms for waiting alone.
    expect(elapsedMs).toBeLessThan(2000);
  });

  it("can be cancelled at any time, and the rest is done later", async () => {
    const world = makeWorld();
    const { content, top } = await simpleChain(world, 48 * MIB, 8);
    for (const waitMs of [0, 60, 200]) {
      const job = await world.start(top, { speed: 40 * MIB });
      await soon(waitMs);
      if (!job.over) job.cancel();
      await world.runner.run(job.ended());
      expect(sameBytes(await world.contents(top), content)).toBe(true);
    }
    const job = await world.stream(top);
    expect(job.failure).toBeUndefined();
    expect(sameBytes(await world.contents(top), content)).toBe(true);
    await world.runner.run(world.graph.remove("top"));
    if (qemuImg !== undefined) world.check(qemuImg, "top.qcow2");
  });

  it("tells of a chain that cannot be read", async () => {
    const world = makeWorld();
    const size = 32 * MIB;
    await world.createQcow2("base.qcow2", size);
    const base = await world.openImage("base.qcow2", "qcow2");
    await world.runner.run(base.write(0, IoVector.of(patchy(9, size, 0))));
    await world.runner.run(world.graph.remove("base"));
    await world.createQcow2("top.qcow2", size, { filename: "base.qcow2", format: "qcow2" });
    truncateSync(world.path("base.qcow2"), 28 * MIB);
    const top = await world.openImage("top.qcow2", "qcow2");
    const errors: unknown[] = [];
    world.jobs.onEvent((event) => {
      if (event.event === "BLOCK_JOB_ERROR") errors.push(event.data);
    });
    const job = await world.streamOnWorkers(top, { autoDismiss: false });
    expect(errors).toEqual([{ device: "j", operation: "read", action: "report" }]);
    expect(job.blockJobInfo()).toMatchObject({ error: "Input/output error", status: "concluded" });
    expect(job.offset).toBeGreaterThan(26 * MIB);
    expect(job.offset).toBeLessThanOrEqual(28 * MIB);
    expect(top.children.backing).not.toBeNull();
  });

  it("does without threads where a chain cannot be shared, and says why", async () => {
    const world = makeWorld();
    const size = 16 * MIB;
    const content = patchy(10, size);
    world.writeRaw("base.raw", content);
    await world.createQcow2("top.qcow2", size);
    await world.openImage("base.raw", "raw", { "read-only": true });
    await world.runner.run(
      world.graph.open({ driver: "throttle", "node-name": "held", file: "base", "read-only": true }),
    );
    const top = await world.openImage("top.qcow2", "qcow2", { backing: "held" });
    const job = await world.stream(top);
    expect(job.blockJobInfo()["x-statistics"]).toMatchObject({
      copier: "local",
      "local-because": "the chain can only be read on the owner's thread",
    });
    expect(sameBytes(await world.contents(top), content)).toBe(true);
  });

  it("runs two jobs side by side on one pool", async () => {
    const world = makeWorld(1);
    const size = 32 * MIB;
    const contents = [patchy(11, size), patchy(12, size)];
    const tops = [];
    for (const [index, content] of contents.entries()) {
      world.writeRaw(`base${index}.raw`, content);
      await world.createQcow2(`top${index}.qcow2`, size, { filename: `base${index}.raw`, format: "raw" });
      tops.push(await world.openImage(`top${index}.qcow2`, "qcow2"));
    }
    const jobs = await Promise.all(tops.map((top, index) => world.start(top, { jobId: `job${index}` })));
    for (const [index, job] of jobs.entries()) {
      await world.runner.run(job.ended());
      expect(job.failure).toBeUndefined();
      expect(sameBytes(await world.contents(tops[index] as never), contents[index] as Uint8Array)).toBe(true);
    }
  });
});

describe("copy workers that die", () => {
  it("are replaced, and what they had is copied again", async () => {
    const threads = new Set<Worker>();
    const notice = (worker: Worker): void => {
      threads.add(worker);
      worker.once("exit", () => threads.delete(worker));
    };
    process.on("worker", notice);
    try {
      const world = makeWorld();
      const { content, top } = await slowChain(world, 64 * MIB, 13);
      const job = await world.start(top, { speed: MIB });
      const statistics = () => job.blockJobInfo()["x-statistics"] ?? {};
      for (let death = 1; death <= 3; death++) {
        await world.untilWorkers(job);
        job.setSpeed(0);
        await soon(30);
        expect(statistics()["copies-in-flight"]).toBeGreaterThan(0);
        await Promise.all([...threads].map((worker) => worker.terminate()));
        job.setSpeed(MIB);
      }
      job.setSpeed(0);
      await world.runner.run(job.ended());
      expect(job.failure).toBeUndefined();
      expect(statistics()["workers-replaced"]).toBe(6);
      expect(statistics()["copies-redone"]).toBeGreaterThan(6);
      expect(sameBytes(await world.contents(top), content)).toBe(true);
      await world.runner.run(world.graph.remove("top"));
      if (qemuImg !== undefined) world.check(qemuImg, "top.qcow2");
    } finally {
      process.off("worker", notice);
    }
  });
});
