/**
 * Notes every worker thread that this process starts from when this module is loaded, so that copy workers, which belong
 * to the pool, can be killed. Load it before the pool.
 */
import { createRequire, syncBuiltinESMExports } from "node:module";
import type { Worker as NodeWorker } from "node:worker_threads";
import type { SeededRandom } from "@spindle/base";

type WorkerParameters = ConstructorParameters<typeof NodeWorker>;

const threads = createRequire(import.meta.url)("node:worker_threads") as { Worker: typeof NodeWorker };
const { Worker } = threads;
const alive = new Set<NodeWorker>();

threads.Worker = class extends Worker {
  constructor(...parameters: WorkerParameters) {
    super(...parameters);
    if (!String(parameters[0]).includes("piscina")) return;
    alive.add(this);
    this.on("exit", () => alive.delete(this));
  }
};
syncBuiltinESMExports();

/** Ends a copy worker in the middle of whatever it does. @returns false when there is none. */
export async function killCopyWorker(random: SeededRandom): Promise<boolean> {
  if (alive.size === 0) return false;
  await random.pick([...alive]).terminate();
  return true;
}
