import { BlockError } from "@spindle/base";
import type { BlockNode } from "@spindle/block";
import { describe, expect, it } from "vitest";
import { ChunkPlanner } from "../src/chunk-planner.ts";
import { StreamWorld, stamped } from "./stream-world.ts";

const CLUSTER = 4096;

describe("a chunk planner", () => {
  it("hands out what it had in hand when a look at the next clusters failed", () => {
    const world = new StreamWorld(1);
    const layers = ["base", "top"].map((name) => ({ name, size: 8 * CLUSTER, clusterSize: CLUSTER }));
    const [base, top] = world.open(layers) as [BlockNode, BlockNode];
    world.write(base, 0, stamped(CLUSTER, 1, 0));
    world.write(base, 2 * CLUSTER, stamped(CLUSTER, 1, 2 * CLUSTER));
    const look = base.driver.blockStatus.bind(base.driver);
    let failing = true;
    base.driver.blockStatus = function* (offset, length) {
      if (!failing || offset === 0) return yield* look(offset, length);
      failing = false;
      throw new BlockError("EIO", "injected");
    };
    const planner = new ChunkPlanner({ top, stop: null, chunk: 16 * CLUSTER });
    expect(() => world.runner.run(planner.next(16 * CLUSTER))).toThrow("injected");
    expect(planner.cursor).toBe(0);
    const pieces = [];
    for (let piece = world.runner.run(planner.next(16 * CLUSTER)); piece !== undefined; ) {
      pieces.push(piece);
      piece = world.runner.run(planner.next(16 * CLUSTER));
    }
    expect(pieces.filter(({ kind }) => kind === "copy")).toEqual([
      { kind: "copy", start: 0, end: CLUSTER },
      { kind: "copy", start: 2 * CLUSTER, end: 3 * CLUSTER },
    ]);
  });
});
