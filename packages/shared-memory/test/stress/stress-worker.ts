/** One thread of the stress test: takes ranges at random and checks in a ghost array that nobody else is where it is. */
import { parentPort, workerData } from "node:worker_threads";
import { type Co, SeededRandom, SyncRunner } from "@spindle/base";
import { LockKind, RangeLock, ThreadTable } from "../../src/index.ts";
import { GhostRanges, type StressSetup, UNITS } from "./ghost-ranges.ts";

const setup = workerData as StressSetup;
const thread = new ThreadTable(setup.threads).attach();
const lock = new RangeLock(setup.lock, thread);
const ghosts = new GhostRanges(setup.ghosts, thread.index);
const counters = new Int32Array(setup.counters);
const random = new SeededRandom(setup.seed);
const runner = new SyncRunner({ now: () => performance.now() }, thread);
parentPort?.postMessage(thread.index);

const KINDS = [LockKind.read, LockKind.write, LockKind.exclusiveWrite, LockKind.copy] as const;

function* requests(): Co<void> {
  while (Atomics.load(counters, 0) === 0) {
    const kind = random.chance(0.02) ? LockKind.change : random.pick(KINDS);
    const start = random.below(UNITS);
    const end = start + 1 + random.below(Math.min(8, UNITS - start));
    let patience = random.chance(0.1) ? random.below(4) : Number.POSITIVE_INFINITY;
    let token = -1;
    if (random.chance(0.2)) token = lock.tryAcquire(kind, start, end);
    else {
      try {
        token = yield* lock.acquire(kind, start, end, () => patience-- <= 0);
      } catch (error) {
        if ((error as { code?: unknown }).code !== "ECANCELED") throw error;
        Atomics.add(counters, 2, 1);
      }
    }
    if (token < 0) continue;
    ghosts.enter(kind, start, end);
    for (let spin = random.below(200); spin > 0; spin--) Atomics.load(counters, 0);
    ghosts.leave(start, end);
    lock.release(token);
    Atomics.add(counters, 1, 1);
  }
}

runner.run(requests());
thread.detach();
parentPort?.postMessage("done");
