/**
 * Which requests of one split ring are in flight, in memory that outlives the back end: one that takes over does what its
 * predecessor had taken and not given back. Every word is the front end's to spoil; what is read is bounded.
 *
 * The layout is the protocol's, little-endian: features (8 bytes), version (2), entries (2), the last head that was given
 * back (2), the used index (2); then for each head of the ring: in flight (1), padding (5), the head given back before
 * it (2), counter (8).
 */
import { sharingCalls } from "@spindle/host-node";
import type { InflightPlace } from "./inflight-region.ts";

export const INFLIGHT_HEADER_BYTES = 16;
export const INFLIGHT_ENTRY_BYTES = 16;

const VERSION = 1;

// Places in the header, in units of 16 bits.
const VERSION_AT = 4;
const ENTRIES_AT = 5;
const LAST_HEAD_AT = 6;
const USED_INDEX_AT = 7;

export class InflightLog {
  readonly #bytes: Uint8Array;
  readonly #halves: Uint16Array;
  readonly #words: Uint32Array;
  readonly #size: number;
  /** Heads that were given back since the driver was last shown the used index. */
  readonly #batch: number[] = [];
  #counter = 1;

  constructor({ address, size }: InflightPlace) {
    const memory = sharingCalls().view(address, INFLIGHT_HEADER_BYTES + INFLIGHT_ENTRY_BYTES * size);
    this.#bytes = new Uint8Array(memory);
    this.#halves = new Uint16Array(memory);
    this.#words = new Uint32Array(memory);
    this.#size = size;
  }

  /**
   * Heads that were taken and never given back, oldest first; undefined when nothing was logged before.
   * @param usedIndex as it stands in the used ring
   */
  recover(usedIndex: number): number[] | undefined {
    if (Atomics.load(this.#halves, VERSION_AT) !== VERSION || this.#halves[ENTRIES_AT] !== this.#size) {
      this.#bytes.fill(0);
      this.#halves[ENTRIES_AT] = this.#size;
      this.#halves[USED_INDEX_AT] = usedIndex;
      Atomics.store(this.#halves, VERSION_AT, VERSION);
      return undefined;
    }
    this.#finishBatch(usedIndex);
    const taken: { head: number; counter: number }[] = [];
    for (let head = 0; head < this.#size; head++)
      if (Atomics.load(this.#bytes, byteOf(head)) === 1) taken.push({ head, counter: this.#counterOf(head) });
    taken.sort((a, b) => a.counter - b.counter);
    return taken.map(({ head }) => head);
  }

  /** Goes on counting behind what is in flight. */
  continue(heads: readonly number[]): void {
    for (const head of heads) this.#counter = Math.max(this.#counter, this.#counterOf(head) + 1);
  }

  /** A chain was taken from the ring. */
  taken(head: number): void {
    const word = byteOf(head) / 4;
    this.#words[word + 2] = this.#counter % 2 ** 32;
    this.#words[word + 3] = Math.floor(this.#counter / 2 ** 32);
    this.#counter += 1;
    Atomics.store(this.#bytes, byteOf(head), 1);
  }

  /** A chain is given back; the driver does not see it yet. */
  giving(head: number): void {
    this.#halves[previousOf(head)] = this.#halves[LAST_HEAD_AT] as number;
    Atomics.store(this.#halves, LAST_HEAD_AT, head);
    this.#batch.push(head);
  }

  /** The driver has been shown the used index. */
  given(usedIndex: number): void {
    for (const head of this.#batch) Atomics.store(this.#bytes, byteOf(head), 0);
    this.#batch.length = 0;
    Atomics.store(this.#halves, USED_INDEX_AT, usedIndex);
  }

  /** Ends what was left half done: the driver has been shown the used index, and the entries still say "in flight". */
  #finishBatch(usedIndex: number): void {
    let head = this.#halves[LAST_HEAD_AT] as number;
    let left = (usedIndex - (this.#halves[USED_INDEX_AT] as number)) & 0xffff;
    for (; left > 0 && left <= this.#size && head < this.#size; left--) {
      Atomics.store(this.#bytes, byteOf(head), 0);
      head = this.#halves[previousOf(head)] as number;
    }
    Atomics.store(this.#halves, USED_INDEX_AT, usedIndex);
  }

  #counterOf(head: number): number {
    const word = byteOf(head) / 4;
    return (this.#words[word + 2] as number) + (this.#words[word + 3] as number) * 2 ** 32;
  }
}

function byteOf(head: number): number {
  return INFLIGHT_HEADER_BYTES + INFLIGHT_ENTRY_BYTES * head;
}

/** In units of 16 bits. */
function previousOf(head: number): number {
  return byteOf(head) / 2 + 3;
}
