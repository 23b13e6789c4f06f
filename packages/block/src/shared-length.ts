/**
 * The length of a disk in shared memory: the owner of the graph changes it while it holds the whole disk, data movers on
 * other threads look at it for every request. It stands twice, and a generation says which copy holds: whoever reads while
 * it is changed gets the old length or the new one.
 */

export interface SharedLengthHandle {
  readonly memory: SharedArrayBuffer;
}

const GENERATION = 0;
/** Low and high word of each copy. */
const COPIES = 1;
const WORDS = 5;

const WORD = 2 ** 32;

export class SharedLength {
  readonly handle: SharedLengthHandle;
  readonly #words: Uint32Array;
  #seen = -1;
  #value = 0;

  /** @param length bytes */
  static create(length: number): SharedLengthHandle {
    const handle = { memory: new SharedArrayBuffer(WORDS * 4) };
    new SharedLength(handle).value = length;
    return handle;
  }

  constructor(handle: SharedLengthHandle) {
    this.handle = handle;
    this.#words = new Uint32Array(handle.memory);
  }

  /** Bytes. */
  get value(): number {
    const words = this.#words;
    // Once more when both copies were written meanwhile.
    for (let now = Atomics.load(words, GENERATION); now !== this.#seen; now = Atomics.load(words, GENERATION)) {
      const copy = COPIES + 2 * (now % 2);
      this.#value = Atomics.load(words, copy + 1) * WORD + Atomics.load(words, copy);
      this.#seen = now;
    }
    return this.#value;
  }

  /** Owner only. */
  set value(length: number) {
    const words = this.#words;
    const next = Atomics.load(words, GENERATION) + 1;
    const copy = COPIES + 2 * (next % 2);
    Atomics.store(words, copy, length % WORD);
    Atomics.store(words, copy + 1, Math.floor(length / WORD));
    Atomics.store(words, GENERATION, next);
  }
}
