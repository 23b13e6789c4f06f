/** A virtual machine's driver without the machine: random requests of 4 KiB over a vhost-user socket, as fast as they end. */
import { parentPort, workerData } from "node:worker_threads";
import { SeededRandom } from "@spindle/base";
import { FrontEnd } from "@spindle/vhost-user";
import { VIRTIO_BLK_S_OK, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT } from "@spindle/virtio-blk";
import { LatencyHistogram } from "@spindle/workload";
import { type DriverReport, type DriverWork, REQUEST_BYTES } from "./vhost-user-protocol.ts";

/** A back end that has gone wakes nobody. */
const WAIT_MS = 100;
const PATIENCE_MS = 10_000;

const { path, queues, depth, operation, workingSet, seconds } = workerData as DriverWork;
const random = new SeededRandom(1);
const type = operation === "read" ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT;
using frontEnd = new FrontEnd(path, { queues, dataBytes: REQUEST_BYTES });
const rings = Array.from({ length: queues }, (_, index) => {
  const queue = frontEnd.queue(index);
  return { queue, startedMs: new Float64Array(queue.depth), inFlight: [] as number[] };
});
let latency = new LatencyHistogram(LatencyHistogram.allocate());

run(seconds * 250);
latency = new LatencyHistogram(LatencyHistogram.allocate());
const begin = performance.now();
run(seconds * 1000);
const elapsed = (performance.now() - begin) / 1000;
const { count } = latency;
const report: DriverReport = {
  kiops: count / elapsed / 1000,
  p50Us: latency.percentile(0.5) * 1000,
  p99Us: latency.percentile(0.99) * 1000,
};
parentPort?.postMessage(report);

function run(durationMs: number): void {
  const endMs = performance.now() + durationMs;
  for (let more = true; more || rings.some(({ inFlight }) => inFlight.length > 0); ) {
    more = performance.now() < endMs;
    let collected = 0;
    for (const ring of rings) {
      while (more && ring.inFlight.length < depth) submit(ring);
      ring.queue.commit();
      collected += ring.queue.collect();
    }
    if (collected > 0) for (const ring of rings) reap(ring);
    else frontEnd.awaitInterrupt(WAIT_MS);
    if (performance.now() > endMs + PATIENCE_MS) throw new Error("the back end does not answer");
  }
}

function submit({ queue, startedMs, inFlight }: (typeof rings)[number]): void {
  const offset = random.below(workingSet / REQUEST_BYTES) * REQUEST_BYTES;
  const slot = queue.submit({ type, offset, length: REQUEST_BYTES });
  startedMs[slot] = performance.now();
  inFlight.push(slot);
}

function reap({ queue, startedMs, inFlight }: (typeof rings)[number]): void {
  const nowMs = performance.now();
  for (let at = inFlight.length - 1; at >= 0; at--) {
    const slot = inFlight[at] as number;
    if (!queue.ended(slot)) continue;
    const status = queue.finish(slot);
    if (status !== VIRTIO_BLK_S_OK) throw new Error(`a request ended with status ${status}`);
    latency.add(nowMs - (startedMs[slot] as number));
    inFlight[at] = inFlight.at(-1) as number;
    inFlight.pop();
  }
}
