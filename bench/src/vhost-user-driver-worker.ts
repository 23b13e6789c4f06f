/**
 * A virtual machine's driver without the machine: requests over a vhost-user socket, as fast as they end. One thread drives
 * all back ends in turn, so that its own code is compiled for everybody alike.
 */
import { parentPort } from "node:worker_threads";
import { SeededRandom } from "@spindle/base";
import { FrontEnd } from "@spindle/vhost-user";
import { type GuestQueue, VIRTIO_BLK_S_OK, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT } from "@spindle/virtio-blk";
import { LatencyHistogram } from "@spindle/workload";
import type { DriverReport, DriverWork } from "./vhost-user-protocol.ts";

/** A back end that has gone wakes nobody. */
const WAIT_MS = 100;
const PATIENCE_MS = 10_000;

/** So many buffers are there at least as requests are in flight. */
const QUEUE_SIZE = 128;

interface Ring {
  readonly queue: GuestQueue;
  readonly startedMs: Float64Array;
  readonly inFlight: number[];
}

class Driver implements Disposable {
  readonly #work: DriverWork;
  readonly #type: number;
  readonly #random: SeededRandom = new SeededRandom(1);
  readonly #frontEnd: FrontEnd;
  readonly #rings: readonly Ring[];
  /** The last request, in units of requests. */
  #last = -1;
  #latency: LatencyHistogram = new LatencyHistogram(LatencyHistogram.allocate());

  constructor(work: DriverWork) {
    this.#work = work;
    this.#type = work.operation === "read" ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT;
    const { path, queues, requestBytes } = work;
    this.#frontEnd = new FrontEnd(path, { queues, queueSize: QUEUE_SIZE, dataBytes: requestBytes });
    this.#rings = Array.from({ length: queues }, (_, index) => {
      const queue = this.#frontEnd.queue(index, !work.polled);
      return { queue, startedMs: new Float64Array(queue.depth), inFlight: [] };
    });
  }

  measure(): DriverReport {
    const { seconds } = this.#work;
    this.#run(seconds * 100);
    this.#latency = new LatencyHistogram(LatencyHistogram.allocate());
    const begin = performance.now();
    this.#run(seconds * 1000);
    const elapsed = (performance.now() - begin) / 1000;
    return {
      kiops: this.#latency.count / elapsed / 1000,
      p50Us: this.#latency.percentile(0.5) * 1000,
      p99Us: this.#latency.percentile(0.99) * 1000,
    };
  }

  [Symbol.dispose](): void {
    this.#frontEnd[Symbol.dispose]();
  }

  #run(durationMs: number): void {
    const endMs = performance.now() + durationMs;
    for (let more = true; more || this.#rings.some(({ inFlight }) => inFlight.length > 0); ) {
      more = performance.now() < endMs;
      let collected = 0;
      for (const ring of this.#rings) {
        while (more && ring.inFlight.length < this.#work.depth) this.#submit(ring);
        ring.queue.commit();
        collected += ring.queue.collect();
      }
      if (collected > 0) for (const ring of this.#rings) this.#reap(ring);
      else if (!this.#work.polled) this.#frontEnd.awaitInterrupt(WAIT_MS);
      if (performance.now() > endMs + PATIENCE_MS) throw new Error("the back end does not answer");
    }
  }

  #submit({ queue, startedMs, inFlight }: Ring): void {
    const { sequential, workingSet, requestBytes } = this.#work;
    const requests = workingSet / requestBytes;
    this.#last = sequential ? (this.#last + 1) % requests : this.#random.below(requests);
    const slot = queue.submit({ type: this.#type, offset: this.#last * requestBytes, length: requestBytes });
    startedMs[slot] = performance.now();
    inFlight.push(slot);
  }

  #reap({ queue, startedMs, inFlight }: Ring): void {
    const nowMs = performance.now();
    for (let at = inFlight.length - 1; at >= 0; at--) {
      const slot = inFlight[at] as number;
      if (!queue.ended(slot)) continue;
      const status = queue.finish(slot);
      if (status !== VIRTIO_BLK_S_OK) throw new Error(`a request ended with status ${status}`);
      this.#latency.add(nowMs - (startedMs[slot] as number));
      inFlight[at] = inFlight.at(-1) as number;
      inFlight.pop();
    }
  }
}

parentPort?.on("message", (work: DriverWork) => {
  using driver = new Driver(work);
  parentPort?.postMessage(driver.measure());
});
