/** A virtual machine's driver without the machine: requests over a vhost-user socket, as fast as they end. */
import { parentPort, workerData } from "node:worker_threads";
import { SeededRandom } from "@spindle/base";
import { FrontEnd } from "@spindle/vhost-user";
import { VIRTIO_BLK_S_OK, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT } from "@spindle/virtio-blk";
import { LatencyHistogram } from "@spindle/workload";
import type { DriverReport, DriverWork } from "./vhost-user-protocol.ts";

/** A back end that has gone wakes nobody. */
const WAIT_MS = 100;
const PATIENCE_MS = 10_000;

/** So many buffers are there at least as requests are in flight. */
const QUEUE_SIZE = 128;

const work = workerData as DriverWork;
const { path, queues, depth, operation, requestBytes, workingSet, seconds } = work;
const random = new SeededRandom(1);
const type = operation === "read" ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT;
using frontEnd = new FrontEnd(path, { queues, queueSize: QUEUE_SIZE, dataBytes: requestBytes });
const rings = Array.from({ length: queues }, (_, index) => {
  const queue = frontEnd.queue(index, !work.polled);
  return { queue, startedMs: new Float64Array(queue.depth), inFlight: [] as number[] };
});
/** The last request, in units of requests. */
let next = -1;
let latency = new LatencyHistogram(LatencyHistogram.allocate());

run(seconds * 100);
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
    else if (!work.polled) frontEnd.awaitInterrupt(WAIT_MS);
    if (performance.now() > endMs + PATIENCE_MS) throw new Error("the back end does not answer");
  }
}

function submit({ queue, startedMs, inFlight }: (typeof rings)[number]): void {
  next = work.sequential ? (next + 1) % (workingSet / requestBytes) : random.below(workingSet / requestBytes);
  const slot = queue.submit({ type, offset: next * requestBytes, length: requestBytes });
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
