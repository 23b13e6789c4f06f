/** A thread of the guest: many requests in flight on one queue, each write read back. */
import { parentPort, workerData } from "node:worker_threads";
import { type Co, join, SeededRandom, SyncRunner } from "@spindle/base";
import { ThreadTable } from "@spindle/shared-memory";
import type { GuestHandle } from "../../src/driver/guest-driver.ts";
import { GuestQueue } from "../../src/driver/guest-queue.ts";
import { pattern } from "../one-thread.ts";

export interface GuestThreadData {
  readonly guest: GuestHandle;
  readonly queue: number;
  /** Coroutines side by side. */
  readonly depth: number;
  /** Requests of each; a write and a read are two. */
  readonly rounds: number;
  readonly bytes: number;
  readonly seed: number;
  /** Turns of a loop, at most, between two requests: moves one thread against the other. */
  readonly delay: number;
}

const data = workerData as GuestThreadData;
const thread = new ThreadTable(data.guest.device.threads).attach();
const runner = new SyncRunner({ now: () => performance.now() }, thread);
const queue = new GuestQueue(data.guest, data.queue, thread);
const random = new SeededRandom(data.seed);
let turns = 0;

function* user(index: number): Co<void> {
  const offset = (data.queue * data.depth + index) * data.bytes;
  const back = new Uint8Array(data.bytes);
  for (let round = 0; round < data.rounds; round += 2) {
    const bytes = pattern(data.bytes, round + index + data.seed);
    yield* queue.write(offset, bytes);
    for (let turn = random.below(data.delay + 1); turn > 0; turn--) turns += 1;
    yield* queue.read(offset, back);
    if (Buffer.compare(back, bytes) !== 0) throw new Error(`coroutine ${index}, round ${round}: other bytes came back`);
  }
}

runner.run(join(Array.from({ length: data.depth }, (_, index) => user(index))));
thread.detach();
parentPort?.postMessage({ done: true, turns });
