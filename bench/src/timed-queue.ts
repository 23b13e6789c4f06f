/** The driver's side of a virtqueue whose requests are timed: what the drivers of the benches keep busy. */
import { type GuestQueue, type GuestRequest, VIRTIO_BLK_S_OK } from "@spindle/virtio-blk";
import type { LatencyHistogram } from "@spindle/workload";

export class TimedQueue {
  readonly queue: GuestQueue;
  readonly #startedMs: Float64Array;
  readonly #inFlight: number[] = [];

  constructor(queue: GuestQueue) {
    this.queue = queue;
    this.#startedMs = new Float64Array(queue.depth);
  }

  /** Requests that were submitted and not reaped. */
  get inFlight(): number {
    return this.#inFlight.length;
  }

  /** Puts a request on the ring; the device sees it after the queue's `commit`. */
  submit(request: GuestRequest): void {
    const slot = this.queue.submit(request);
    this.#startedMs[slot] = performance.now();
    this.#inFlight.push(slot);
  }

  /** Ends what has been collected. @throws {Error} when a request has failed. */
  reap(latency: LatencyHistogram): void {
    const nowMs = performance.now();
    for (let at = this.#inFlight.length - 1; at >= 0; at--) {
      const slot = this.#inFlight[at] as number;
      if (!this.queue.ended(slot)) continue;
      const status = this.queue.finish(slot);
      if (status !== VIRTIO_BLK_S_OK) throw new Error(`a request ended with status ${status}`);
      latency.add(nowMs - (this.#startedMs[slot] as number));
      this.#inFlight[at] = this.#inFlight.at(-1) as number;
      this.#inFlight.pop();
    }
  }
}
