/** What a request pays for its place in the range lock, by how many others are in flight, and what a ring costs. */
import { pathToFileURL } from "node:url";
import { LockKind, RangeLock, ThreadTable } from "@spindle/shared-memory";

export interface Measurement {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
}

const HELD = [0, 16, 64, 256, 1000];
const ROUNDS = 60;
const ROUND_MS = 2;

export function rangeLockBench(): Measurement[] {
  // The first time is for the compiler.
  measure();
  return measure();
}

function measure(): Measurement[] {
  const results: Measurement[] = [];
  for (const held of HELD) {
    const lock = lockWith(held);
    const free = 2 ** 40;
    results.push({
      name: `range lock: tryAcquire and release, ${held} held`,
      value: nanosecondsOf(() => lock.release(lock.tryAcquire(LockKind.write, free, free + 65536))),
      unit: "ns",
    });
    if (held !== 64) continue;
    results.push({
      name: `range lock: acquire (coroutine) and release, ${held} held`,
      value: nanosecondsOf(() => lock.release(acquired(lock, free))),
      unit: "ns",
    });
    results.push({
      name: `range lock: tryAcquire that fails, ${held} held`,
      value: nanosecondsOf(() => lock.tryAcquire(LockKind.change, 0, free)),
      unit: "ns",
    });
  }
  const thread = new ThreadTable(ThreadTable.create()).attach();
  results.push({ name: "doorbell: ring without a sleeper", value: nanosecondsOf(() => thread.ring()), unit: "ns" });
  return results;
}

function lockWith(held: number): RangeLock {
  const lock = new RangeLock(RangeLock.create(), new ThreadTable(ThreadTable.create()).attach());
  for (let index = 0; index < held; index++) lock.tryAcquire(LockKind.write, index * 65536, (index + 1) * 65536);
  return lock;
}

function acquired(lock: RangeLock, start: number): number {
  const step = lock.acquire(LockKind.write, start, start + 65536).next();
  if (step.done !== true) throw new Error("nothing was in the way, and yet it waited");
  return step.value;
}

/** The fastest of many short rounds: what disturbs a round only makes it slower. */
function nanosecondsOf(body: () => void): number {
  let count = 1000;
  const rounds: number[] = [];
  for (let round = 0; round < ROUNDS; ) {
    const start = performance.now();
    for (let index = 0; index < count; index++) body();
    const elapsedMs = performance.now() - start;
    if (elapsedMs < ROUND_MS) {
      count *= 2;
      continue;
    }
    rounds.push((elapsedMs * 1e6) / count);
    round += 1;
  }
  return Math.round(Math.min(...rounds));
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  for (const { name, value, unit } of rangeLockBench()) console.log(`${name}: ${value} ${unit}`);
}
