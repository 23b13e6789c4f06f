/**
 * Memory that the kernel copies to and from quickly. The C library hands out large pieces of memory 16 bytes behind the
 * start of a page, and what the kernel copies from lies at the start of one: the processor takes each store for one that
 * the next load has to wait for, because their addresses end alike (Intel calls it 4 KiB aliasing; AMD has it too), and a
 * read takes three times as long. A few bytes further on it does not.
 */

/** So many bytes behind the start of a piece of memory, shared or not, is a good place. */
export const TRANSFER_LEAD_BYTES = 112;

/** A buffer of zeros for requests of many pages. */
export function transferBytes(length: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array(new ArrayBuffer(TRANSFER_LEAD_BYTES + length), TRANSFER_LEAD_BYTES);
}
