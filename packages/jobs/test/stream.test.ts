import { BlockError, sleep } from "@spindle/base";
import type { SimulationOptions } from "@spindle/testkit";
import { describe, expect, it } from "vitest";
import { type Copier, LocalCopier, startStream } from "../src/index.ts";
import { StreamWorld, stamped } from "./stream-world.ts";

const KIB = 1024;
const SUCCESS = ["created", "running", "waiting", "pending", "BLOCK_JOB_COMPLETED", "concluded", "null"];

/** Storage that is so fast that only delays and limits take time. */
const FAST: SimulationOptions = { latencyMs: [0.001, 0.002], slowChance: 0, stallChance: 0 };

/** A chain of a base full of data and an empty top over it. */
function simpleWorld(
  size = 256 * KIB,
  filters: readonly Record<string, unknown>[] = [],
  simulation: SimulationOptions = {},
) {
  const world = new StreamWorld(1, simulation);
  const [base, top] = world.open([
    { name: "base", size, filters },
    { name: "top", size },
  ]);
  if (base === undefined || top === undefined) throw new Error("no nodes");
  world.write(world.graph.lookup("base"), 0, stamped(size, 1, 0));
  return { world, base, top, content: stamped(size, 1, 0) };
}

function refusal(world: StreamWorld, options: Parameters<typeof startStream>[1]): string {
  try {
    world.runner.run(startStream(world.context, options));
  } catch (error) {
    return (error as Error).message;
  }
  return "accepted";
}

describe("a stream of the whole chain", () => {
  it("fills the top, drops the chain and tells it in QEMU's order", () => {
    const { world, top, content } = simpleWorld();
    world.stream({ node: top });
    expect(world.events).toEqual(SUCCESS);
    expect(top.children.backing).toBeNull();
    expect(world.image("top").backingFile).toBeNull();
    expect(world.contents(top)).toEqual(content);
    const done = { type: "stream", device: "j", len: 256 * KIB, offset: 256 * KIB, speed: 0 };
    expect(world.rawEvents[4]?.data).toEqual(done);
    expect(top.busyReason).toBeNull();
  });

  it("makes the copied data durable before it drops the chain", () => {
    const { world, top } = simpleWorld();
    world.stream({ node: top });
    expect(world.image("top").log).toEqual(["flush", "header null"]);
  });

  it("leaves alone what the top has, and what nobody has", () => {
    const world = new StreamWorld(2);
    const size = 64 * KIB;
    const [base, top] = world.open([
      { name: "base", size },
      { name: "top", size },
    ]);
    if (base === undefined || top === undefined) throw new Error("no nodes");
    world.write(base, 0, stamped(16 * KIB, 1, 0));
    world.write(base, 32 * KIB, new Uint8Array(8 * KIB));
    world.write(top, 4 * KIB, stamped(4 * KIB, 2, 4 * KIB));
    const before = world.contents(top);
    world.stream({ node: top });
    expect(world.contents(top)).toEqual(before);
    // Four clusters of data from the base less the one that was there, plus that one; the zeros were not stored.
    expect(world.image("top").dataClusters).toBe(4);
  });

  it("does nothing, and succeeds, without a backing file", () => {
    const world = new StreamWorld(3);
    const [top] = world.open([{ name: "top", size: 8 * KIB }]);
    if (top === undefined) throw new Error("no node");
    world.stream({ node: top });
    expect(world.events).toEqual(SUCCESS);
    expect(world.rawEvents[4]?.data).toMatchObject({ len: 0, offset: 0 });
  });

  it("copies many chunks at once when the chain is slow", () => {
    const { world, top } = simpleWorld(1024 * KIB, [{ driver: "delay", "read-ms": 20 }], FAST);
    const start = world.runner.clock.now();
    world.stream({ node: top, chunk: 16 * KIB, depth: 16 });
    const elapsedMs = world.runner.clock.now() - start;
    // 64 chunks one after the other would take 1280 ms.
    expect(elapsedMs).toBeLessThan(120);
  });
});

describe("streams of a part of the chain", () => {
  function threeLayers() {
    const world = new StreamWorld(4);
    const size = 96 * KIB;
    const [base, middle, top] = world.open([
      { name: "base", size },
      { name: "middle", size },
      { name: "top", size },
    ]);
    if (base === undefined || middle === undefined || top === undefined) throw new Error("no nodes");
    world.write(base, 0, stamped(size, 1, 0));
    world.write(middle, 16 * KIB, stamped(24 * KIB, 2, 16 * KIB));
    world.runner.run(middle.writeZeroes(64 * KIB, 16 * KIB));
    return { world, base, middle, top, before: world.contents(top) };
  }

  it("stops above `base`, by file name or by node, and above what is below `bottom`", () => {
    for (const options of [{ base: "base.img" }, { baseNode: "base" }, { bottom: "middle" }]) {
      const { world, base, top, before } = threeLayers();
      world.stream({ node: top, ...options });
      expect(top.children.backing).toBe(base);
      expect(world.image("top").backingFile).toEqual({ filename: "base.img", format: "tiny" });
      expect(world.contents(top)).toEqual(before);
      // What the middle layer has, and nothing of the base; its zeros are stored, or the base would show.
      expect(world.image("top").dataClusters).toBe(6);
      world.write(base, 64 * KIB, stamped(16 * KIB, 9, 64 * KIB));
      expect(world.contents(top)).toEqual(before);
    }
  });

  it("writes the name that the user gives into the image", () => {
    const { world, top } = threeLayers();
    world.stream({ node: top, baseNode: "base", backingFile: "../elsewhere/base.img" });
    expect(world.image("top").backingFile).toEqual({ filename: "../elsewhere/base.img", format: "tiny" });
  });

  it("can be done again for the rest, and finds most of it done", () => {
    const { world, top, before } = threeLayers();
    world.stream({ node: top, baseNode: "base" });
    world.stream({ node: top });
    expect(top.children.backing).toBeNull();
    expect(world.contents(top)).toEqual(before);
  });

  it("refuses what cannot be, in QEMU's words", () => {
    const { world, base, middle, top } = threeLayers();
    const both = (one: string, other: string): string => `'${one}' and '${other}' cannot be specified at the same time`;
    const node = top;
    const jobId = "j";
    expect(refusal(world, { node, jobId, base: "x", baseNode: "y" })).toBe(both("base", "base-node"));
    expect(refusal(world, { node, jobId, base: "x", bottom: "y" })).toBe(both("base", "bottom"));
    expect(refusal(world, { node, jobId, bottom: "x", baseNode: "y" })).toBe(both("bottom", "base-node"));
    expect(refusal(world, { node, jobId, base: "x" })).toBe("Can't find 'x' in the backing chain");
    expect(refusal(world, { node, jobId, baseNode: "x" })).toBe("Cannot find device='' nor node-name='x'");
    expect(refusal(world, { node, jobId, baseNode: "top" })).toBe("Node 'top' is not a backing image of 'top'");
    expect(refusal(world, { node: middle, jobId, device: "drive0", baseNode: "top" })).toBe(
      "Node 'top' is not a backing image of 'drive0'",
    );
    expect(refusal(world, { node: middle, jobId, bottom: "top" })).toBe(
      "Node 'top' is not in a chain starting from 'middle'",
    );
    expect(refusal(world, { node, jobId, backingFile: "x" })).toBe(
      "backing file specified, but streaming the entire chain",
    );
    for (const chunk of [0, -1, 0.5, 2 ** 40])
      expect(refusal(world, { node, jobId, chunk })).toContain("Parameter 'chunk' expects a number from 1");
    for (const depth of [0, 1.5, 100_000])
      expect(refusal(world, { node, jobId, depth })).toContain("Parameter 'depth' expects a number from 1");
    expect(refusal(world, { node, jobId: "" })).toBe("Invalid job ID ''");
    expect(refusal(world, { node, jobId, speed: -1 })).toBe("Parameter 'speed' expects a non-negative value");
    for (const member of [base, middle, top]) expect(member.busyReason).toBeNull();
    const filter = world.runner.run(world.graph.open({ driver: "delay", "node-name": "slow", file: "base" }));
    expect(refusal(world, { node, jobId, bottom: filter.name })).toBe(
      "Node 'slow' is a filter, use a non-filter node as 'bottom'",
    );
  });

  it("keeps others away from the chain for as long as it runs, but not from the base", () => {
    const { world, base, middle, top } = threeLayers();
    const job = world.runner.run(startStream(world.context, { node: top, jobId: "j", baseNode: "base", speed: 1 }));
    const busy = (name: string): string => `Node '${name}' is busy: block device is in use by block job: stream`;
    expect(refusal(world, { node: top, jobId: "k" })).toBe(busy("top"));
    expect(refusal(world, { node: middle, jobId: "k" })).toBe(busy("middle"));
    expect(base.busyReason).toBeNull();
    job.cancel();
    world.runner.run(job.ended());
    expect([middle.busyReason, top.busyReason]).toEqual([null, null]);
  });

  it("shows the filter node while it runs, and takes it away", () => {
    const { world, top } = threeLayers();
    const options = { node: top, jobId: "j", filterNodeName: "cor", speed: 1 };
    const job = world.runner.run(startStream(world.context, options));
    expect(world.graph.node("cor")).toBeDefined();
    expect(refusal(world, { ...options, jobId: "k" })).toContain("is busy");
    job.cancel();
    world.runner.run(job.ended());
    expect(world.graph.node("cor")).toBeUndefined();
  });

  it("streams past filters on the top and on the base", () => {
    const world = new StreamWorld(5);
    const size = 64 * KIB;
    const slow = { driver: "delay", "read-ms": 1 };
    const [base, top] = world.open([
      { name: "base", size, filters: [slow] },
      { name: "top", size, filters: [slow] },
    ]);
    if (base === undefined || top === undefined) throw new Error("no nodes");
    world.write(base, 0, stamped(size, 1, 0));
    world.stream({ node: top });
    expect(world.graph.lookup("top").children.backing).toBeNull();
    expect(world.contents(top)).toEqual(stamped(size, 1, 0));
  });
});

describe("errors under each policy", () => {
  const CHUNK = 16 * KIB;
  const AT = 5 * CHUNK;
  const SIZE = 16 * CHUNK;
  const fault = (extra: object) => ({
    driver: "fault",
    rules: [{ operation: "read", offset: AT, length: 512, ...extra }],
  });
  const ofErrors = (world: StreamWorld) =>
    world.rawEvents.filter((event) => event.event === "BLOCK_JOB_ERROR").map((event) => event.data);

  it("report: fails at the failing chunk and keeps the chain", () => {
    const { world, base, top, content } = simpleWorld(SIZE, [fault({ once: true })]);
    world.stream({ node: top, chunk: CHUNK, depth: 4 });
    expect(world.events.slice(2)).toEqual(["BLOCK_JOB_ERROR", "aborting", "BLOCK_JOB_COMPLETED", "concluded", "null"]);
    expect(ofErrors(world)).toEqual([{ device: "j", operation: "read", action: "report" }]);
    expect(world.rawEvents.find((event) => event.event === "BLOCK_JOB_COMPLETED")?.data).toEqual({
      type: "stream",
      device: "j",
      len: SIZE,
      offset: AT,
      speed: 0,
      error: "Input/output error",
    });
    expect(top.children.backing).toBe(base);
    expect(world.contents(top)).toEqual(content);
  });

  it("stop: pauses at the failing chunk, tries it again at resume, and finishes", () => {
    for (const [errno, ioStatus, policy] of [
      ["EIO", "failed", "stop"],
      ["ENOSPC", "nospace", "stop"],
      ["ENOSPC", "nospace", "enospc"],
      ["ENOSPC", "nospace", "auto"],
    ] as const) {
      const { world, top, content } = simpleWorld(SIZE, [fault({ once: true, errno })]);
      const job = world.runner.run(
        startStream(world.context, { jobId: "j", node: top, chunk: CHUNK, depth: 4, onError: policy }),
      );
      world.runner.runUntil(() => job.status === "paused");
      expect(world.jobs.queryBlockJobs()[0]).toMatchObject({
        offset: AT,
        len: SIZE,
        "io-status": ioStatus,
        paused: true,
        status: "paused",
      });
      expect(job.blockJobInfo()["x-statistics"]).toMatchObject({ "copies-in-flight": 0 });
      expect(world.events.slice(2)).toEqual(["BLOCK_JOB_ERROR", "paused"]);
      job.resume();
      expect(job.ioStatus).toBe("ok");
      world.runner.run(job.ended());
      expect(world.events.slice(4)).toEqual(["running", ...SUCCESS.slice(2)]);
      expect(top.children.backing).toBeNull();
      expect(world.contents(top)).toEqual(content);
    }
  });

  it("enospc: reports what is not ENOSPC", () => {
    const { world, top } = simpleWorld(SIZE, [fault({ once: true })]);
    world.stream({ node: top, chunk: CHUNK, onError: "enospc" });
    expect(ofErrors(world)).toEqual([{ device: "j", operation: "read", action: "report" }]);
  });

  it("ignore: goes on to the end, fails then, and keeps the chain", () => {
    const { world, base, top, content } = simpleWorld(SIZE, [fault({})]);
    world.stream({ node: top, chunk: CHUNK, depth: 4, onError: "ignore" });
    expect(ofErrors(world)).toEqual([{ device: "j", operation: "read", action: "ignore" }]);
    expect(world.rawEvents.find((event) => event.event === "BLOCK_JOB_COMPLETED")?.data).toMatchObject({
      offset: SIZE,
      error: "Input/output error",
    });
    expect(top.children.backing).toBe(base);
    // All but the chunk that cannot be read.
    expect(world.image("top").dataClusters).toBe((SIZE - CHUNK) / 4096);
    const after = world.graph.lookup("base");
    expect(world.contents(after)).toEqual(content);
  });

  it("tells of the first failing range of the disk, whichever copy fails first", () => {
    const { world, top } = simpleWorld(SIZE);
    world.createCopier = function* (options) {
      const local = new LocalCopier(options);
      const copier: Copier = {
        capacity: 8,
        *copy(offset, length) {
          if (offset === AT) yield* sleep(world.runner.clock, 20);
          if (offset === AT || offset === AT + CHUNK) throw new BlockError("EIO", "no", { operation: "read" });
          return yield* local.copy(offset, length);
        },
        close: () => local.close(),
        statistics: () => ({}),
      };
      return copier;
    };
    world.stream({ node: top, chunk: CHUNK });
    expect(ofErrors(world)).toHaveLength(1);
    expect(world.rawEvents.find((event) => event.event === "BLOCK_JOB_COMPLETED")?.data).toMatchObject({ offset: AT });
  });

  it("tells truthfully that the top refused", () => {
    const { world, top, content } = simpleWorld(SIZE);
    let writes = 0;
    world.image("top").fault = (step) => {
      writes += step === "write" ? 1 : 0;
      if (step === "write" && writes === 7) throw new BlockError("ENOSPC", "full");
    };
    const job = world.runner.run(
      startStream(world.context, { jobId: "j", node: top, chunk: CHUNK, onError: "enospc" }),
    );
    world.runner.runUntil(() => job.status === "paused");
    expect(ofErrors(world)).toEqual([{ device: "j", operation: "write", action: "stop" }]);
    job.resume();
    world.runner.run(job.ended());
    expect(world.contents(top)).toEqual(content);
  });

  it("keeps the chain when the last steps fail", () => {
    for (const failing of ["flush", "header"] as const) {
      const { world, base, top, content } = simpleWorld(SIZE);
      world.image("top").fault = (step) => {
        if (step === failing) throw new BlockError("EIO", "no");
      };
      world.stream({ node: top });
      expect(world.rawEvents.find((event) => event.event === "BLOCK_JOB_COMPLETED")?.data).toMatchObject({
        error: "Input/output error",
      });
      expect(top.children.backing).toBe(base);
      expect(world.contents(top)).toEqual(content);
    }
  });
});

describe("a stream that is held back", () => {
  it("keeps to its speed and follows a new one at once", () => {
    const size = 1024 * KIB;
    const { world, top } = simpleWorld(size, [], FAST);
    const job = world.runner.run(startStream(world.context, { jobId: "j", node: top, speed: 256 * KIB }));
    const start = world.runner.clock.now();
    world.runner.runUntil(() => world.runner.clock.now() > start + 1000);
    expect(job.offset).toBeGreaterThan(200 * KIB);
    expect(job.offset).toBeLessThan(330 * KIB);
    job.setSpeed(0);
    world.runner.run(job.ended());
    expect(world.runner.clock.now() - start).toBeLessThan(1200);
  });

  it("moves on smoothly at a low speed: a chunk is not copied in one piece", () => {
    const { world, top } = simpleWorld(512 * KIB, [], FAST);
    const job = world.runner.run(startStream(world.context, { jobId: "j", node: top, speed: 64 * KIB }));
    const offsets: number[] = [];
    for (let second = 1; second <= 4; second++) {
      world.runner.runUntil(() => world.runner.clock.now() > second * 1000);
      offsets.push(job.offset);
    }
    offsets.forEach((offset, index) => {
      expect(offset).toBeGreaterThan((index + 1) * 64 * KIB * 0.7);
      expect(offset).toBeLessThan((index + 1) * 64 * KIB * 1.4);
    });
    job.cancel();
    world.runner.run(job.ended());
  });

  it("has no copy in flight while it is paused, and goes on after", () => {
    const { world, top, content } = simpleWorld(1024 * KIB, [{ driver: "delay", "read-ms": 50 }]);
    const job = world.runner.run(startStream(world.context, { jobId: "j", node: top, chunk: 16 * KIB, depth: 8 }));
    world.runner.runUntil(() => world.runner.clock.now() > 75);
    expect(job.blockJobInfo()["x-statistics"]).toMatchObject({ "copies-in-flight": 8 });
    job.pause();
    world.runner.runUntil(() => job.status === "paused");
    expect(top.requestsInFlight).toBe(0);
    const { offset } = job;
    expect(offset).toBeGreaterThan(0);
    job.resume();
    world.runner.run(job.ended());
    expect(world.contents(top)).toEqual(content);
  });
});
