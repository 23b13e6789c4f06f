/**
 * The device's side of a virtqueue, whichever form its rings have: what `ServedQueue` and other servers of queues work
 * with. `openVirtqueue` makes the one that was negotiated.
 */
import type { DescriptorChain } from "./descriptor-chain.ts";
import type { QueueFault } from "./queue-fault.ts";

/** What the driver negotiated, as far as the rings are concerned. */
export interface RingFeatures {
  readonly packed: boolean;
  readonly eventIndex: boolean;
  readonly indirect: boolean;
  /** Whether chains are given back in the order in which they were made available. */
  readonly inOrder: boolean;
}

/**
 * How far a queue has got, as 16-bit words. Of a split ring these are its free-running indices; of a packed ring each is
 * the place in the ring with the wrap counter in bit 15, which is also how vhost-user writes them.
 */
export interface QueuePosition {
  readonly nextAvailable: number;
  readonly nextUsed: number;
}

/** Trusts no word of the guest. A ring that breaks the rules is left alone for good, with the reason in `fault`. */
export interface Virtqueue {
  /** Entries of the ring. */
  readonly size: number;
  /** Why the queue is broken; nothing more is taken from it then. */
  readonly fault: QueueFault | undefined;
  readonly position: QueuePosition;
  /** What was taken and not given back is there again for whoever opens the rings next. */
  readonly resumable?: boolean;
  /** Whether the driver has made something available that was not taken yet. */
  readonly hasAvailable: boolean;
  /** Marks the queue as broken. The first reason stays. */
  latch(fault: QueueFault): void;
  /** Takes the next chain into `chain`. False when there is none, or when the queue is (now) broken. */
  take(chain: DescriptorChain): boolean;
  /**
   * Gives a chain back with the bytes written to it. The driver is sure to see it after `publish`.
   * @param slots what `DescriptorChain.slots` said of the chain
   */
  put(head: number, length: number, slots: number): void;
  /** Shows the driver all that was put. @returns whether it wants an interrupt for it. */
  publish(): boolean;
  /** Asks for kicks. Look at `hasAvailable` *afterwards*, and only then sleep. */
  requestKicks(): void;
  /** Advises the driver that kicks are not needed while the queue is being worked on. */
  suppressKicks(): void;
}

/** Where a queue with these features begins. */
export function firstPosition(packed: boolean): QueuePosition {
  // The wrap counters of a packed ring begin at 1.
  const word = packed ? 0x8000 : 0;
  return { nextAvailable: word, nextUsed: word };
}

/** Whether a free-running index passed `event` when it moved from `before` to `after` (virtio 1.2 §2.7.7.2). */
export function eventReached(event: number, after: number, before: number): boolean {
  return ((after - event - 1) & 0xffff) < ((after - before) & 0xffff);
}
