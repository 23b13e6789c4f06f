/** A thread that changes guest memory at random while the device works on it, until it is told to stop. */
import { parentPort, workerData } from "node:worker_threads";
import { SeededRandom } from "@spindle/base";

export interface ScribblerData {
  readonly memory: SharedArrayBuffer;
  /** Where it scribbles, as byte offsets of the buffer. */
  readonly ranges: readonly { readonly offset: number; readonly length: number }[];
  readonly stop: SharedArrayBuffer;
  readonly seed: number;
}

const data = workerData as ScribblerData;
const random = new SeededRandom(data.seed);
const bytes = new Uint8Array(data.memory);
const stop = new Int32Array(data.stop);
parentPort?.postMessage({ started: true });
while (Atomics.load(stop, 0) === 0) {
  const range = random.pick(data.ranges);
  const at = range.offset + random.below(range.length);
  const before = bytes[at] as number;
  bytes[at] = random.chance(0.5) ? before ^ (1 << random.below(8)) : random.u32();
  // Mostly put back, so that requests are often almost right.
  if (random.chance(0.9)) bytes[at] = before;
}
parentPort?.postMessage({ stopped: true });
