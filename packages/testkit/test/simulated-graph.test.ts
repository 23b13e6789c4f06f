import { type Co, isBlockError, SeededRandom } from "@spindle/base";
import { delayFilter, faultFilter } from "@spindle/block";
import { describe, expect, it } from "vitest";
import {
  DurabilityModel,
  forEachSeed,
  MemoryFiles,
  ObservedDisk,
  randomBytes,
  SimulatedRunner,
  simulatedGraph,
} from "../src/index.ts";

const LENGTH = 256 * 1024;

describe("simulated graph", () => {
  it("runs guests on a node of several layers, in virtual time", () =>
    forEachSeed(5, (seed) => {
      const runner = new SimulatedRunner(seed);
      const files = new MemoryFiles("file");
      files.put("disk.raw", LENGTH);
      const { graph } = simulatedGraph({ runner, files, drivers: [delayFilter, faultFilter] });
      const node = runner.run(
        graph.open({
          driver: "delay",
          "node-name": "slow",
          "read-ms": 1000,
          file: { driver: "file", filename: "disk.raw" },
        }),
      );
      const disk = new ObservedDisk(node, new DurabilityModel(LENGTH));
      const guest = function* (random: SeededRandom): Co<void> {
        for (let count = 0; count < 20; count++) {
          const offset = random.below(LENGTH / 512 - 8) * 512;
          if (random.chance(0.5)) yield* disk.write(offset, randomBytes(random, 4096));
          else yield* disk.read(offset, 4096);
        }
      };
      runner.runAll([1, 2, 3, 4].map((number) => guest(new SeededRandom(seed * 10 + number))));
      runner.run(graph.close());
      expect(runner.clock.now()).toBeGreaterThan(1000);
    }));

  it("says that a file is not there", () => {
    const runner = new SimulatedRunner(1);
    const { graph } = simulatedGraph({ runner, drivers: [] });
    let failure: unknown;
    try {
      runner.run(graph.open({ driver: "file", filename: "absent.raw" }));
    } catch (error) {
      failure = error;
    }
    expect(isBlockError(failure, "ENOENT")).toBe(true);
  });
});
