/** A virtual machine on a thread of its own: writes, flushes, zeroes, discards and reads back through the socket. */
import { parentPort, workerData } from "node:worker_threads";
import { type Co, join, SeededRandom } from "@spindle/base";
import { randomBytes } from "@spindle/testkit";
import { FrontEnd, type FrontEndOptions } from "../src/index.ts";

export interface FrontEndWork {
  readonly path: string;
  readonly options: FrontEndOptions;
  readonly requests: number;
  readonly seed: number;
}

export interface FrontEndReport {
  readonly capacity: number;
  readonly id: string;
  readonly wrong: number;
  readonly requests: number;
}

const { path, options, requests, seed } = workerData as FrontEndWork;
const BLOCK = 4096;
const random = new SeededRandom(seed);

using frontEnd = new FrontEnd(path, options);
const queues = frontEnd.plans.map(({ index }) => frontEnd.queue(index));
const blocks = Math.floor(frontEnd.capacity / BLOCK);
/** What each block holds: the seed of its bytes, or 0 for zeros. */
const model = new Map<number, number>();
let wrong = 0;

/** Each queue has every so-many-th block for its own. */
function* guest(queueIndex: number): Co<void> {
  const queue = queues[queueIndex] as (typeof queues)[number];
  const buffer = new Uint8Array(BLOCK);
  for (let count = 0; count < requests; count++) {
    const block = random.below(Math.floor(blocks / queues.length)) * queues.length + queueIndex;
    const kind = random.below(10);
    if (kind < 4) {
      const content = 1 + random.below(1_000_000);
      yield* queue.write(block * BLOCK, randomBytes(new SeededRandom(content), BLOCK));
      model.set(block, content);
    } else if (kind === 4) {
      yield* queue.writeZeroes(block * BLOCK, BLOCK, count % 2 === 0);
      model.set(block, 0);
    } else if (kind === 5) yield* queue.flush();
    else {
      const known = [...model.keys()].filter((one) => one % queues.length === queueIndex);
      const target = kind < 8 && known.length > 0 ? (known[random.below(known.length)] as number) : block;
      yield* queue.read(target * BLOCK, buffer);
      const content = model.get(target) ?? 0;
      const expected = content === 0 ? new Uint8Array(BLOCK) : randomBytes(new SeededRandom(content), BLOCK);
      if (Buffer.compare(buffer, expected) !== 0) wrong += 1;
    }
  }
}

const id = Buffer.from(frontEnd.runner.run((queues[0] as (typeof queues)[number]).getId())).toString();
frontEnd.runner.run(join(queues.map((_, index) => guest(index))));
const report: FrontEndReport = {
  capacity: frontEnd.capacity,
  id: id.replace(/\0+$/, ""),
  wrong,
  requests: requests * queues.length,
};
parentPort?.postMessage(report);
