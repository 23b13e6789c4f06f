/** A block graph inside a simulation: files in memory, trackers on a thread table of its own, time by the runner. */
import type { Co } from "@spindle/base";
import { type BackingFile, type Codecs, type DriverDefinition, DriverRegistry, Graph } from "@spindle/block";
import { RangeLock, type Thread, ThreadTable, type ThreadTableHandle } from "@spindle/shared-memory";
import { MemoryFiles } from "./memory-driver.ts";
import type { SimulatedRunner } from "./simulated-runner.ts";

export interface SimulatedGraphOptions {
  readonly runner: SimulatedRunner;
  /** The formats and filters that nodes may use. */
  readonly drivers: readonly DriverDefinition[];
  /** The files that the driver `file` opens; none when absent. */
  readonly files?: MemoryFiles;
  readonly codecs?: Codecs;
}

export interface SimulatedGraph {
  readonly graph: Graph;
  readonly files: MemoryFiles;
  /** The identity of the owner's thread; attach more to the same table for others. */
  readonly thread: Thread;
  readonly table: ThreadTableHandle;
}

/** Any file of the simulation may be a backing file. */
export function simulatedGraph(options: SimulatedGraphOptions): SimulatedGraph {
  const { runner, drivers, files = new MemoryFiles("file"), codecs } = options;
  const table = ThreadTable.create();
  const thread = new ThreadTable(table).attach();
  const graph = new Graph({
    environment: runner.environment(codecs),
    registry: new DriverRegistry([files, ...drivers]),
    backingPolicy: {
      *resolve(_image: string, backing: BackingFile): Co<string> {
        return backing.filename;
      },
    },
    createTracker: () => new RangeLock(RangeLock.create(), thread),
  });
  return { graph, files, thread, table };
}
