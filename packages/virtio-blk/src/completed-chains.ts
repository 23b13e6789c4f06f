/**
 * Chains of one queue that are done and not yet given back: in the order in which they ended, or, where the driver
 * negotiated VIRTIO_F_IN_ORDER, in the order in which they were taken (virtio 1.2 §2.7.9, §2.8.9): what ends early waits
 * there for those before it.
 */
import type { Virtqueue } from "./virtqueue.ts";

/** Numbers that one chain takes in a list. */
const FIELDS = 3;

export class CompletedChains {
  readonly #inOrder: boolean;
  /** Head, length and slots of each chain that may be given back, in turn. */
  readonly #ready: number[] = [];
  /** What ended early, by its ticket. */
  readonly #early: Map<number, readonly [number, number, number]> = new Map();
  #nextTicket = 0;
  #nextReady = 0;
  #outstanding = 0;

  constructor(inOrder: boolean) {
    this.#inOrder = inOrder;
  }

  /** Chains that were taken and not given back. */
  get outstanding(): number {
    return this.#outstanding;
  }

  /** Chains that `deliver` would give back. */
  get ready(): number {
    return this.#ready.length / FIELDS;
  }

  /** Notes that a chain was taken. @returns its ticket for `complete`. */
  take(): number {
    this.#outstanding += 1;
    const ticket = this.#nextTicket;
    this.#nextTicket += 1;
    return ticket;
  }

  complete(ticket: number, head: number, length: number, slots: number): void {
    if (!this.#inOrder) {
      this.#ready.push(head, length, slots);
      return;
    }
    this.#early.set(ticket, [head, length, slots]);
    for (let next = this.#early.get(this.#nextReady); next !== undefined; next = this.#early.get(this.#nextReady)) {
      this.#early.delete(this.#nextReady);
      this.#nextReady += 1;
      this.#ready.push(...next);
    }
  }

  /** Gives back all that may be. @returns whether the driver wants an interrupt for it. */
  deliver(ring: Virtqueue): boolean {
    const ready = this.#ready;
    for (let at = 0; at < ready.length; at += FIELDS)
      ring.put(ready[at] as number, ready[at + 1] as number, ready[at + 2] as number);
    this.#outstanding -= ready.length / FIELDS;
    ready.length = 0;
    return ring.publish();
  }
}
