/** A guest's thread: random requests of 4 KiB at one queue depth, as fast as its device takes them. */
import { workerData } from "node:worker_threads";
import { SeededRandom } from "@spindle/base";
import { ThreadTable } from "@spindle/shared-memory";
import { GuestQueue, VIRTIO_BLK_S_OK, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT } from "@spindle/virtio-blk";
import { LatencyHistogram } from "@spindle/workload";
import { type GuestWork, PhaseControl, REQUEST_BYTES } from "./guest-io-protocol.ts";

const work = workerData as GuestWork;
const thread = new ThreadTable(work.guest.device.threads).attach();
const queue = new GuestQueue(work.guest, work.queue, thread);
const control = new PhaseControl(work.control);
const latencies = work.latencies.map((memory) => new LatencyHistogram(memory));
const random = new SeededRandom(work.queue + 1);
const type = work.operation === "read" ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT;
const startedMs = new Float64Array(queue.depth);
const inFlight: number[] = [];

while (!control.stopped) {
  while (inFlight.length < work.depth) submit();
  queue.commit();
  awaitOne();
  reap();
}
while (inFlight.length > 0) {
  awaitOne();
  reap();
}
thread.detach();

function submit(): void {
  const offset = work.start + random.below(work.length / REQUEST_BYTES) * REQUEST_BYTES;
  const slot = queue.submit({ type, offset, length: REQUEST_BYTES });
  startedMs[slot] = performance.now();
  inFlight.push(slot);
}

function awaitOne(): void {
  for (;;) {
    const seen = thread.snapshot();
    if (queue.collect() > 0) return;
    thread.wait(seen);
  }
}

function reap(): void {
  const latency = latencies[control.phaseIndex] as LatencyHistogram;
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
