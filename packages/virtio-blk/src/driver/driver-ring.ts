/** The driver's side of a virtqueue, whichever form its rings have: what `GuestQueue` works with. */
import type { GuestWindow } from "../guest-memory.ts";
import { DESCRIPTOR_BYTES } from "../queue-layout.ts";

/** A descriptor as it stands in memory; what is left out is 0. */
export interface Descriptor {
  /** A bigint reaches beyond 2^53. */
  readonly address: number | bigint;
  readonly length: number;
  readonly flags?: number;
  readonly next?: number;
}

/** A chain that the device has given back. */
export interface UsedElement {
  readonly id: number;
  readonly length: number;
}

export interface DriverRing {
  readonly size: number;
  /** Writes one entry of an indirect table; what links entries is added. */
  writeTableEntry(table: GuestWindow, index: number, descriptor: Descriptor, last: boolean): void;
  /**
   * Puts a chain on the ring under a number of the caller's, below `size`; what links its descriptors is added. The
   * device sees it after `publish`. The caller has made sure that there is room.
   */
  offerChain(id: number, chain: readonly Descriptor[]): void;
  /** Shows the device all that was offered. @returns whether it wants a kick for it. */
  publish(): boolean;
  /** Whether `takeUsed` would give something. */
  readonly hasUsed: boolean;
  /** Takes the next chain that the device has given back. */
  takeUsed(): UsedElement | undefined;
  /** Asks for an interrupt with the next used chain. Look at `hasUsed` *afterwards*, and only then sleep. */
  requestInterrupts(): void;
  /** Advises the device that interrupts are not needed. */
  suppressInterrupts(): void;
}

/** Writes what both forms of descriptor begin with: address and length. */
export function writeBuffer(table: GuestWindow, index: number, descriptor: Descriptor): void {
  const base = index * DESCRIPTOR_BYTES;
  const { address } = descriptor;
  if (typeof address === "number") table.setU64(base, address);
  else {
    table.setU32(base, Number(address % 2n ** 32n));
    table.setU32(base + 4, Number(address / 2n ** 32n));
  }
  table.setU32(base + 8, descriptor.length);
}
