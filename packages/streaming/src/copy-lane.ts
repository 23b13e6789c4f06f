/**
 * The owner's side of one copy worker: its channel, the copies that it has, and how many it may have. A copy goes out as
 * one record and comes back as one.
 */
import { assert } from "@spindle/base";
import type { Thread } from "@spindle/shared-memory";
import type { CopyChannel } from "./copy-channel.ts";
import { DepthControl } from "./depth-control.ts";

/** A copy on its way; the owner holds its clusters all the while. */
export interface PendingCopy {
  readonly guestOffset: number;
  readonly dataLength: number;
  readonly length: number;
  readonly hostOffset: number;
  /** Workers that died over it. */
  deaths: number;
  /** Set when it has come back. */
  result: CopyResult | undefined;
}

export type CopyResult =
  | { readonly kind: "done"; readonly zeroMask: Uint8Array }
  | { readonly kind: "read" | "write"; readonly error: Error }
  /** No worker can do it. */
  | { readonly kind: "orphaned" };

export interface CopyLaneOptions {
  readonly channel: CopyChannel;
  readonly owner: Thread;
  /** The worker's index in the thread table. */
  readonly workerThread: number;
  readonly clusterSize: number;
  /** The depth that the user wants; undefined to find out. */
  readonly depth: number | undefined;
}

export class CopyLane {
  readonly workerThread: number;
  readonly #channel: CopyChannel;
  readonly #owner: Thread;
  readonly #clusterSize: number;
  readonly #control: DepthControl;
  readonly #freeSlots: number[];
  readonly #copies: Map<number, PendingCopy> = new Map();

  constructor(options: CopyLaneOptions) {
    this.workerThread = options.workerThread;
    this.#channel = options.channel;
    this.#owner = options.owner;
    this.#clusterSize = options.clusterSize;
    const { slotCount } = options.channel.handle;
    this.#control = new DepthControl(slotCount, options.depth);
    this.#freeSlots = Array.from({ length: slotCount }, (_, index) => index);
  }

  get depth(): number {
    return this.#control.depth;
  }
  get inFlight(): number {
    return this.#copies.size;
  }
  /** Copies that may be added before the lane has what it should have; it takes more when it must, up to its slots. */
  get room(): number {
    return this.depth - this.inFlight;
  }
  get hasSlot(): boolean {
    return this.#freeSlots.length > 0;
  }
  get hasCompletion(): boolean {
    return this.#channel.hasCompletion;
  }

  start(copy: PendingCopy): void {
    const slot = this.#freeSlots.pop();
    assert(slot !== undefined, "a copy was given to a lane without a slot");
    this.#copies.set(slot, copy);
    this.#control.started(this.inFlight);
    this.#channel.pushCommand({ ...copy, slot });
    this.#ringWorker();
  }

  /** Takes in what has come back. @returns how many copies. */
  collect(nowMs: number): number {
    let count = 0;
    for (let end = this.#channel.popCompletion(); end !== undefined; end = this.#channel.popCompletion()) {
      const { slot, failed, idleMs } = end;
      const copy = this.#copies.get(slot);
      assert(copy !== undefined, "a worker completed what it was not asked for");
      copy.result =
        failed === undefined
          ? { kind: "done", zeroMask: this.#channel.zeroMask(slot, copy.length / this.#clusterSize).slice() }
          : { kind: failed, error: this.#channel.error(slot) };
      this.#copies.delete(slot);
      this.#freeSlots.push(slot);
      this.#control.ended(idleMs, nowMs);
      count += 1;
    }
    return count;
  }

  stop(): void {
    this.#channel.stop();
    this.#ringWorker();
  }

  /** The worker is dead: what it had and did not complete. */
  abandon(nowMs: number): PendingCopy[] {
    this.collect(nowMs);
    const copies = [...this.#copies.values()];
    this.#copies.clear();
    return copies;
  }

  #ringWorker(): void {
    this.#owner.table.ring(this.workerThread);
  }
}
