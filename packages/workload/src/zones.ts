/**
 * Which guest may write which sectors, so that each sector has one writer that knows what it must hold. Zones alternate:
 * in fine ones guests share every cluster, in coarse ones a guest has whole clusters to zero and discard.
 */
import { SECTOR_SIZE } from "@spindle/base";

const ZONE_BYTES: number = 4 * 1024 * 1024;
const FINE_STRIPE_BYTES: number = 8 * 1024;
const COARSE_STRIPE_BYTES: number = 256 * 1024;
/** One zone of these many is written to; the others are only read. */
const ZONES_PER_WRITTEN = 4;

export interface Stripe {
  readonly start: number;
  readonly end: number;
  readonly guest: number;
  /** Whether guests write here at all. */
  readonly written: boolean;
}

/** The stripe around an offset, on a disk of `length` bytes with `guests` guests. */
export function stripeAt(offset: number, length: number, guests: number): Stripe {
  const zone = Math.floor(offset / ZONE_BYTES);
  const size = zone % 2 === 0 ? FINE_STRIPE_BYTES : COARSE_STRIPE_BYTES;
  const index = Math.floor(offset / size);
  const start = index * size;
  // Written zones come in pairs, a fine and a coarse one.
  const written = Math.floor(zone / 2) % ZONES_PER_WRITTEN === 0;
  return { start, end: Math.min(start + size, length), guest: index % guests, written };
}

/** The guest that owns a sector. */
export function ownerOf(sectorIndex: number, length: number, guests: number): number {
  return stripeAt(sectorIndex * SECTOR_SIZE, length, guests).guest;
}
