/** Randomness as it is handed in, and a seeded source for everything that must be replayable. */

export interface RandomSource {
  /** A whole number from 0 to 2^32 - 1. */
  u32(): number;
}

/** xoshiro128** seeded through splitmix32: the same seed gives the same numbers on every host. */
export class SeededRandom implements RandomSource {
  readonly #state: Uint32Array = new Uint32Array(4);

  constructor(seed: number) {
    let mixed = seed >>> 0;
    for (let index = 0; index < 4; index++) {
      mixed = (mixed + 0x9e3779b9) >>> 0;
      let word = mixed;
      word = Math.imul(word ^ (word >>> 16), 0x21f0aaad);
      word = Math.imul(word ^ (word >>> 15), 0x735a2d97);
      this.#state[index] = word ^ (word >>> 15);
    }
  }

  u32(): number {
    const s = this.#state as Uint32Array & { [index: number]: number };
    const result = Math.imul(rotateLeft(Math.imul(s[1] as number, 5), 7), 9) >>> 0;
    const shifted = (s[1] as number) << 9;
    s[2] = (s[2] as number) ^ (s[0] as number);
    s[3] = (s[3] as number) ^ (s[1] as number);
    s[1] = (s[1] as number) ^ (s[2] as number);
    s[0] = (s[0] as number) ^ (s[3] as number);
    s[2] = (s[2] as number) ^ shifted;
    s[3] = rotateLeft(s[3] as number, 11);
    return result;
  }

  /** A whole number from 0 to `limit - 1`; `limit` is 1 to 2^53 - 1. */
  below(limit: number): number {
    if (limit <= 2 ** 32) return Math.floor((this.u32() / 2 ** 32) * limit);
    return Math.floor(((this.u32() * 2 ** 21 + (this.u32() >>> 11)) / 2 ** 53) * limit);
  }

  /** True with the given probability, 0 to 1. */
  chance(probability: number): boolean {
    return this.u32() / 2 ** 32 < probability;
  }

  /** One of the given values. */
  pick<T>(values: readonly T[]): T {
    return values[this.below(values.length)] as T;
  }
}

function rotateLeft(value: number, bits: number): number {
  return (value << bits) | (value >>> (32 - bits));
}
