/** A guest's thread: random requests of 4 KiB at one queue depth, as fast as its device takes them. */
import { workerData } from "node:worker_threads";
import { SeededRandom } from "@spindle/base";
import { ThreadTable } from "@spindle/shared-memory";
import { GuestQueue, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT } from "@spindle/virtio-blk";
import { LatencyHistogram } from "@spindle/workload";
import { type GuestWork, PhaseControl, REQUEST_BYTES } from "./guest-io-protocol.ts";
import { TimedQueue } from "./timed-queue.ts";

const work = workerData as GuestWork;
const thread = new ThreadTable(work.guest.device.threads).attach();
const timed = new TimedQueue(new GuestQueue(work.guest, work.queue, thread));
const control = new PhaseControl(work.control);
const latencies = work.latencies.map((memory) => new LatencyHistogram(memory));
const random = new SeededRandom(work.queue + 1);
const type = work.operation === "read" ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT;

while (!control.stopped) {
  while (timed.inFlight < work.depth) submit();
  timed.queue.commit();
  awaitOne();
  reap();
}
while (timed.inFlight > 0) {
  awaitOne();
  reap();
}
thread.detach();

function submit(): void {
  const offset = work.start + random.below(work.length / REQUEST_BYTES) * REQUEST_BYTES;
  timed.submit({ type, offset, length: REQUEST_BYTES });
}

function awaitOne(): void {
  for (;;) {
    const seen = thread.snapshot();
    if (timed.queue.collect() > 0) return;
    thread.wait(seen);
  }
}

function reap(): void {
  timed.reap(latencies[control.phaseIndex] as LatencyHistogram);
}
