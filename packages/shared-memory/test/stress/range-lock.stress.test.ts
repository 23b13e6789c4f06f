import { once } from "node:events";
import { Worker } from "node:worker_threads";
import { SeededRandom } from "@spindle/base";
import { expect, it } from "vitest";
import { RangeLock, ThreadTable } from "../../src/index.ts";
import { GhostRanges, type StressSetup } from "./ghost-ranges.ts";

const LONG = process.env["SPINDLE_LONG"] === "1";
const DURATION_MS = LONG ? 120_000 : 3000;
const WORKERS = LONG ? 12 : 5;
const KILL_EVERY_MS = LONG ? 100 : 250;

it("keeps apart what may not meet and lets nobody starve, also when threads die at any moment", {
  timeout: DURATION_MS + 60_000,
}, async () => {
  const threads = ThreadTable.create();
  const table = new ThreadTable(threads);
  const thread = table.attach();
  const handle = RangeLock.create({ slots: 4 });
  const lock = new RangeLock(handle, thread);
  const memory = GhostRanges.create();
  const counters = new Int32Array(new SharedArrayBuffer(12));
  const random = new SeededRandom(20);
  let seed = 0;
  let freed = 0;

  const start = async (): Promise<{ worker: Worker; index: number; exited: Promise<unknown> }> => {
    const setup: StressSetup = { threads, lock: handle, ghosts: memory, counters: counters.buffer, seed: ++seed };
    const worker = new Worker(new URL("stress-worker.ts", import.meta.url), {
      workerData: setup,
      execArgv: ["--conditions=spindle-source", "--disable-warning=ExperimentalWarning"],
    });
    worker.on("error", (error) => {
      throw error;
    });
    const exited = once(worker, "exit");
    const [index] = (await once(worker, "message")) as [number];
    return { worker, index, exited };
  };

  const workers = await Promise.all(Array.from({ length: WORKERS }, start));
  const end = performance.now() + DURATION_MS;
  let kills = 0;
  while (performance.now() < end) {
    await new Promise((resolve) => setTimeout(resolve, KILL_EVERY_MS));
    const position = random.below(workers.length);
    const victim = workers[position] as (typeof workers)[number];
    await victim.worker.terminate();
    await victim.exited;
    kills += 1;
    new GhostRanges(memory, victim.index).leave(0, 24);
    for (let count = lock.recover(victim.index); ; count = lock.recover(victim.index)) {
      freed += Math.max(0, count);
      if (count >= 0) break;
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    table.free(victim.index);
    workers[position] = await start();
  }
  const doneBefore = Atomics.load(counters, 1);
  Atomics.store(counters, 0, 1);
  for (const { index } of workers) table.ring(index);
  await Promise.all(workers.map(({ exited }) => exited));

  expect(new GhostRanges(memory, thread.index).clashes).toBe(0);
  expect(lock.inFlight()).toEqual([]);
  expect(lock.oldestTicket()).toBe(Number.POSITIVE_INFINITY);
  expect(doneBefore).toBeGreaterThan(1000);
  expect(kills).toBeGreaterThan(3);
  const { waits, slotWaits, mutexWaits } = lock.statistics();
  console.log(
    `${doneBefore} requests, ${Atomics.load(counters, 2)} canceled, ${waits} waited, ${slotWaits} for a slot, ` +
      `${mutexWaits} for the mutex; ${kills} threads died and left ${freed} requests`,
  );
});
