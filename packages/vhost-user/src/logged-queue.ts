/**
 * A split virtqueue whose requests are logged while they are in flight. It begins with those that an earlier back end has
 * left behind, and goes on with the ring.
 */
import type { DescriptorChain, QueueFault, QueuePosition, SplitQueue, Virtqueue } from "@spindle/virtio-blk";
import type { InflightLog } from "./inflight-log.ts";

export class LoggedQueue implements Virtqueue {
  readonly resumable = true;
  readonly #ring: SplitQueue;
  readonly #log: InflightLog;
  /** Heads to take once more, the next one last. */
  readonly #left: number[];

  /** @param left heads that were taken and never given back, oldest first */
  constructor(ring: SplitQueue, log: InflightLog, left: readonly number[]) {
    this.#ring = ring;
    this.#log = log;
    this.#left = [...left].reverse();
    log.continue(left);
  }

  get size(): number {
    return this.#ring.size;
  }
  get fault(): QueueFault | undefined {
    return this.#ring.fault;
  }
  get position(): QueuePosition {
    return this.#ring.position;
  }
  get hasAvailable(): boolean {
    return (this.#left.length > 0 && this.fault === undefined) || this.#ring.hasAvailable;
  }

  latch(fault: QueueFault): void {
    this.#ring.latch(fault);
  }

  take(chain: DescriptorChain): boolean {
    const head = this.#left.pop();
    if (head !== undefined) return this.#ring.takeHead(head, chain);
    if (!this.#ring.take(chain)) return false;
    this.#log.taken(chain.head);
    return true;
  }

  put(head: number, length: number): void {
    this.#log.giving(head);
    this.#ring.put(head, length);
  }

  publish(): boolean {
    const wanted = this.#ring.publish();
    this.#log.given(this.#ring.position.nextUsed);
    return wanted;
  }

  requestKicks(): void {
    this.#ring.requestKicks();
  }
  suppressKicks(): void {
    this.#ring.suppressKicks();
  }
}
