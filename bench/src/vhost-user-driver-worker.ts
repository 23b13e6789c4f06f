/**
 * A virtual machine's driver without the machine: requests over a vhost-user socket, as fast as they end. One thread drives
 * all back ends in turn, so that its own code is compiled for everybody alike.
 */
import { parentPort } from "node:worker_threads";
import { SeededRandom } from "@spindle/base";
import { FrontEnd } from "@spindle/vhost-user";
import { VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT } from "@spindle/virtio-blk";
import { LatencyHistogram } from "@spindle/workload";
import { TimedQueue } from "./timed-queue.ts";
import type { DriverReport, DriverWork } from "./vhost-user-protocol.ts";

/** A back end that has gone wakes nobody. */
const WAIT_MS = 100;
const PATIENCE_MS = 10_000;

/** So many buffers are there at least as requests are in flight. */
const QUEUE_SIZE = 128;

class Driver implements Disposable {
  readonly #work: DriverWork;
  readonly #type: number;
  readonly #random: SeededRandom = new SeededRandom(1);
  readonly #frontEnd: FrontEnd;
  readonly #queues: readonly TimedQueue[];
  /** The last request, in units of requests. */
  #last = -1;
  #latency: LatencyHistogram = new LatencyHistogram(LatencyHistogram.allocate());

  constructor(work: DriverWork) {
    this.#work = work;
    this.#type = work.operation === "read" ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT;
    const { path, queues, requestBytes } = work;
    this.#frontEnd = new FrontEnd(path, { queues, queueSize: QUEUE_SIZE, dataBytes: requestBytes });
    this.#queues = Array.from(
      { length: queues },
      (_, index) => new TimedQueue(this.#frontEnd.queue(index, !work.polled)),
    );
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
    for (let more = true; more || this.#queues.some(({ inFlight }) => inFlight > 0); ) {
      more = performance.now() < endMs;
      let collected = 0;
      for (const timed of this.#queues) {
        while (more && timed.inFlight < this.#work.depth) this.#submit(timed);
        timed.queue.commit();
        collected += timed.queue.collect();
      }
      if (collected > 0) for (const timed of this.#queues) timed.reap(this.#latency);
      else if (!this.#work.polled) this.#frontEnd.awaitInterrupt(WAIT_MS);
      if (performance.now() > endMs + PATIENCE_MS) throw new Error("the back end does not answer");
    }
  }

  #submit(timed: TimedQueue): void {
    const { sequential, workingSet, requestBytes } = this.#work;
    const requests = workingSet / requestBytes;
    this.#last = sequential ? (this.#last + 1) % requests : this.#random.below(requests);
    timed.submit({ type: this.#type, offset: this.#last * requestBytes, length: requestBytes });
  }
}

parentPort?.on("message", (work: DriverWork) => {
  using driver = new Driver(work);
  parentPort?.postMessage(driver.measure());
});
