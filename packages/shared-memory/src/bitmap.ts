/** Bits in shared memory that any thread sets and clears: marks, or numbered slots that threads claim and release. */
import { assert } from "@spindle/base";

const WORD_BITS = 32;

export class Bitmap {
  readonly bits: number;
  readonly #words: Int32Array;
  /** Where the last claim succeeded: usually there is room again near by. */
  #hint = 0;

  /** The shared memory that a bitmap needs, a multiple of 8. */
  static bytes(bits: number): number {
    return Math.ceil(bits / 64) * 8;
  }

  /** @param byteOffset a multiple of 4; the memory there is zero at first */
  constructor(memory: SharedArrayBuffer, byteOffset: number, bits: number) {
    this.bits = bits;
    this.#words = new Int32Array(memory, byteOffset, Math.ceil(bits / WORD_BITS));
  }

  test(bit: number): boolean {
    return (Atomics.load(this.#words, this.#wordOf(bit)) & maskOf(bit)) !== 0;
  }

  /** @returns whether this call set it: of several threads exactly one gets true. */
  set(bit: number): boolean {
    return (Atomics.or(this.#words, this.#wordOf(bit), maskOf(bit)) & maskOf(bit)) === 0;
  }

  /** @returns whether this call cleared it: of several threads exactly one gets true. */
  clear(bit: number): boolean {
    return (Atomics.and(this.#words, this.#wordOf(bit), ~maskOf(bit)) & maskOf(bit)) !== 0;
  }

  /** Sets some clear bit. @returns its number, or -1 when every bit was seen set. */
  claim(): number {
    const words = this.#words.length;
    for (let step = 0; step < words; step++) {
      const word = (this.#hint + step) % words;
      const bit = this.#claimIn(word);
      if (bit < 0) continue;
      this.#hint = word;
      return bit;
    }
    return -1;
  }

  /** Gives a claimed slot back. */
  release(bit: number): void {
    assert(this.clear(bit), "release of a slot that nobody has claimed");
  }

  /** How many bits are set; a moment's picture while others set and clear. */
  count(): number {
    let count = 0;
    for (let word = 0; word < this.#words.length; word++) {
      for (let rest = Atomics.load(this.#words, word); rest !== 0; rest &= rest - 1) count += 1;
    }
    return count;
  }

  #claimIn(word: number): number {
    for (;;) {
      const free = ~Atomics.load(this.#words, word);
      if (free === 0) return -1;
      const bit = word * WORD_BITS + (31 - Math.clz32(free & -free));
      if (bit >= this.bits) return -1;
      if (this.set(bit)) return bit;
    }
  }

  #wordOf(bit: number): number {
    assert(bit >= 0 && bit < this.bits, "no such bit");
    return Math.floor(bit / WORD_BITS);
  }
}

function maskOf(bit: number): number {
  return 1 << (bit % WORD_BITS);
}
