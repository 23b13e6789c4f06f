/** One of two threads that use a range lock at the same time, each on a range of its own or both on the same. */
import { workerData } from "node:worker_threads";
import { type Co, SyncRunner } from "@spindle/base";
import { LockKind, RangeLock, type RangeLockHandle, ThreadTable, type ThreadTableHandle } from "@spindle/shared-memory";

export interface RangeLockWork {
  readonly role: "own-range" | "holder" | "waiter";
  readonly index: number;
  readonly threads: ThreadTableHandle;
  readonly lock: RangeLockHandle;
  /** Words: how many threads are ready, and, for holder and waiter, the round and the waiter's arrival. */
  readonly control: SharedArrayBuffer;
  /** By index for own ranges: acquisitions a second. By round for the others: nanoseconds from release to waking. */
  readonly results: SharedArrayBuffer;
  readonly rounds: number;
}

const READY = 0;
const HELD = 1;
const ARRIVED = 2;
const RANGE = 65_536;
const BATCH = 1_000;
/** A waiter that has arrived sleeps after this long. */
const ASLEEP_AFTER_MS = 0.2;

const work = workerData as RangeLockWork;
const thread = new ThreadTable(work.threads).attach();
const lock = new RangeLock(work.lock, thread);
const runner = new SyncRunner(performance, thread);
const control = new Int32Array(work.control);
const results = new Float64Array(work.results);

Atomics.add(control, READY, 1);
Atomics.notify(control, READY);
awaitTold(READY, 2);
if (work.role === "own-range") useOwnRange();
else if (work.role === "holder") hold();
else wait();
thread.detach();

/** Acquires and releases a range that the other thread never touches. */
function useOwnRange(): void {
  const begin = performance.now();
  for (let batch = 0; batch < work.rounds; batch++) runner.run(acquireOften());
  results[work.index] = (work.rounds * BATCH * 1_000) / (performance.now() - begin);
}

function* acquireOften(): Co<void> {
  const start = work.index * RANGE;
  for (let call = 0; call < BATCH; call++) lock.release(yield* lock.acquire(LockKind.write, start, start + RANGE));
}

/** Holds the range until the other sleeps for it, and notes when it lets go. */
function hold(): void {
  for (let round = 1; round <= work.rounds; round++) {
    const slot = runner.run(lock.acquire(LockKind.exclusiveWrite, 0, RANGE));
    tell(HELD, round);
    awaitTold(ARRIVED, round);
    const asleepMs = performance.now() + ASLEEP_AFTER_MS;
    while (performance.now() < asleepMs);
    results[round - 1] = hostNanoseconds();
    lock.release(slot);
    awaitTold(ARRIVED, -round);
  }
}

/** Asks for the range while it is held, and makes of the time of its release the time until it woke. */
function wait(): void {
  for (let round = 1; round <= work.rounds; round++) {
    awaitTold(HELD, round);
    tell(ARRIVED, round);
    const slot = runner.run(lock.acquire(LockKind.exclusiveWrite, 0, RANGE));
    results[round - 1] = hostNanoseconds() - (results[round - 1] as number);
    lock.release(slot);
    tell(ARRIVED, -round);
  }
}

/** The clock that all threads share. */
function hostNanoseconds(): number {
  return Number(process.hrtime.bigint());
}

function tell(word: number, value: number): void {
  Atomics.store(control, word, value);
  Atomics.notify(control, word);
}

function awaitTold(word: number, value: number): void {
  for (let seen = Atomics.load(control, word); seen !== value; seen = Atomics.load(control, word))
    Atomics.wait(control, word, seen);
}
