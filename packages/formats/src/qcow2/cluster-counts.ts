/**
 * A count for each host cluster, for a check of an image: one byte, and a list of the few counts that are larger. Bytes
 * that are never written cost no memory: the host gives pages as they are touched.
 */

/** The byte of a cluster whose count is in the list. */
const LARGE = 0xff;

const GROWTH = 1.25;
/** Runs of zeros, of which a sparse file has many, are passed by a word at a time. */
const WORD_BYTES = 4;

export class ClusterCounts {
  #bytes: Uint8Array;
  #words: Uint32Array;
  #length: number;
  readonly #large: Map<number, number> = new Map();

  /** @param length how many clusters are counted; all others have the count 0 */
  constructor(length: number) {
    this.#words = new Uint32Array(Math.ceil(length / WORD_BYTES));
    this.#bytes = new Uint8Array(this.#words.buffer);
    this.#length = length;
  }

  get length(): number {
    return this.#length;
  }

  /** Counts more clusters from now on; the new ones have the count 0. */
  grow(length: number): void {
    if (length <= this.#length) return;
    if (length > this.#bytes.length) {
      const larger = new Uint32Array(Math.ceil(Math.max(length, this.#bytes.length * GROWTH) / WORD_BYTES));
      larger.set(this.#words);
      this.#words = larger;
      this.#bytes = new Uint8Array(larger.buffer);
    }
    this.#length = length;
  }

  get(index: number): number {
    const byte = this.#bytes[index] ?? 0;
    return byte === LARGE ? (this.#large.get(index) as number) : byte;
  }

  set(index: number, count: number): void {
    if (count < LARGE) {
      if (this.#bytes[index] === LARGE) this.#large.delete(index);
      this.#bytes[index] = count;
      return;
    }
    this.#bytes[index] = LARGE;
    this.#large.set(index, count);
  }

  /** Adds to a count that may not exceed `most`. @returns false when it would: then it is `most`. */
  add(index: number, weight: number, most: number): boolean {
    const count = this.get(index) + weight;
    this.set(index, Math.min(count, most));
    return count <= most;
  }

  /** Gives the first `count` clusters side by side from `from` on whose counts are 0 the count 1. @returns the first */
  take(count: number, from: number): number {
    let first = from;
    for (let index = first; index < this.#length && index < first + count; index++)
      if (this.#bytes[index] !== 0) first = index + 1;
    this.grow(first + count);
    this.#bytes.fill(1, first, first + count);
    return first;
  }

  /** The first cluster from `index` on whose count is not 0; `length` when there is none. */
  nextCounted(index: number): number {
    let at = index;
    while (at < this.#length && this.#bytes[at] === 0)
      at += at % WORD_BYTES === 0 && this.#words[at / WORD_BYTES] === 0 ? WORD_BYTES : 1;
    return Math.min(at, this.#length);
  }

  /** The first cluster from `index` on, and before the end of both, whose counts differ; that end when there is none. */
  nextDifference(index: number, other: ClusterCounts): number {
    const mine = this.#bytes;
    const theirs = other.#bytes;
    const end = Math.min(this.#length, other.#length);
    let at = index;
    while (at < end && mine[at] === theirs[at] && (mine[at] !== LARGE || this.get(at) === other.get(at))) {
      const isWord = at % WORD_BYTES === 0;
      const isEmpty = isWord && this.#words[at / WORD_BYTES] === 0 && other.#words[at / WORD_BYTES] === 0;
      at += isEmpty ? WORD_BYTES : 1;
    }
    return Math.min(at, end);
  }

  /** The last cluster whose count is not 0; -1 when there is none. */
  lastCounted(): number {
    let word = this.#words.length - 1;
    while (word >= 0 && this.#words[word] === 0) word -= 1;
    let at = Math.min(word * WORD_BYTES + WORD_BYTES, this.#length) - 1;
    while (at >= 0 && this.#bytes[at] === 0) at -= 1;
    return at;
  }
}
