/** A queue of records between exactly one producer thread and one consumer thread. It has no doorbell of its own. */
import { assert } from "@spindle/base";

// Head and tail stand in cache lines of their own: each is written by one side only.
const HEADER_BYTES = 128;
const HEAD = 0;
const TAIL = 16;

/** Records are `width` float64 numbers. */
export class Ring {
  readonly #indexes: Int32Array;
  readonly #records: Float64Array;
  readonly #capacity: number;
  readonly #width: number;

  /** The shared memory that a ring needs, a multiple of 8. */
  static bytes(capacity: number, width: number): number {
    return HEADER_BYTES + capacity * width * Float64Array.BYTES_PER_ELEMENT;
  }

  /** @param byteOffset a multiple of 8; the memory there is zero when the first side comes */
  constructor(memory: SharedArrayBuffer, byteOffset: number, capacity: number, width: number) {
    assert(capacity > 0 && width > 0, "a ring of nothing");
    this.#indexes = new Int32Array(memory, byteOffset, HEADER_BYTES / Int32Array.BYTES_PER_ELEMENT);
    this.#records = new Float64Array(memory, byteOffset + HEADER_BYTES, capacity * width);
    this.#capacity = capacity;
    this.#width = width;
  }

  /** Producer's side. @returns false when the ring is full. */
  push(record: ArrayLike<number>): boolean {
    const tail = Atomics.load(this.#indexes, TAIL);
    if (this.#distance(Atomics.load(this.#indexes, HEAD), tail) === this.#capacity) return false;
    const at = (tail % this.#capacity) * this.#width;
    for (let field = 0; field < this.#width; field++) this.#records[at + field] = record[field] as number;
    Atomics.store(this.#indexes, TAIL, this.#next(tail));
    return true;
  }

  /** Consumer's side. @returns false when the ring is empty; `into` is untouched then. */
  pop(into: Float64Array): boolean {
    const head = Atomics.load(this.#indexes, HEAD);
    if (head === Atomics.load(this.#indexes, TAIL)) return false;
    const at = (head % this.#capacity) * this.#width;
    for (let field = 0; field < this.#width; field++) into[field] = this.#records[at + field] as number;
    Atomics.store(this.#indexes, HEAD, this.#next(head));
    return true;
  }

  /** Records in the ring; exact on either side as far as that side's own calls go. */
  get length(): number {
    return this.#distance(Atomics.load(this.#indexes, HEAD), Atomics.load(this.#indexes, TAIL));
  }

  get free(): number {
    return this.#capacity - this.length;
  }

  // Indexes run from 0 to twice the capacity, so that a full ring differs from an empty one.
  #next(index: number): number {
    return (index + 1) % (2 * this.#capacity);
  }

  #distance(head: number, tail: number): number {
    return (tail - head + 2 * this.#capacity) % (2 * this.#capacity);
  }
}
