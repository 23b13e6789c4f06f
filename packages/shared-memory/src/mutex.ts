/**
 * A mutex that nobody ever sleeps on. Its word says who holds it, so that it can be taken from a thread that died. Whoever
 * finds it held spins for a few microseconds at most and then leaves a note in the word; the holder cannot unlock
 * while there is a note, and does first what the note asks for. So a thread with an event loop never blocks, and a
 * holder that was descheduled, or died, holds up only those who need an answer.
 */

// The word: 0 when free, else the holder's index + 1, and this bit when somebody left a note.
const NOTE = 0x100;

/** About 10 µs of looking: as long as falling asleep and being woken, and longer than any critical section. */
const SPIN_LIMIT = 1500;

export class Mutex {
  readonly #words: Int32Array;
  readonly #word: number;
  readonly #self: number;

  /**
   * @param word index of the mutex's word in `words`
   * @param thread index of the calling thread, 0 to 63
   */
  constructor(words: Int32Array, word: number, thread: number) {
    this.#words = words;
    this.#word = word;
    this.#self = thread + 1;
  }

  /** Takes the mutex if it is free now. */
  tryLock(): boolean {
    return Atomics.compareExchange(this.#words, this.#word, 0, this.#self) === 0;
  }

  /** Takes the mutex if it becomes free within a few microseconds. */
  spin(): boolean {
    for (let round = 0; round < SPIN_LIMIT; round++) {
      if (Atomics.load(this.#words, this.#word) === 0 && this.tryLock()) return true;
    }
    return false;
  }

  /**
   * Leaves a note for the holder; what it refers to has been stored before.
   * @returns true when the mutex was free: the caller holds it now and does itself what the note would have asked for.
   */
  lockOrNote(): boolean {
    for (;;) {
      const seen = Atomics.load(this.#words, this.#word);
      if (seen === 0) {
        if (this.tryLock()) return true;
      } else if (seen >= NOTE || Atomics.compareExchange(this.#words, this.#word, seen, seen + NOTE) === seen) {
        return false;
      }
    }
  }

  /** @returns false when there is a note: it is taken away, and the caller still holds the mutex. */
  unlock(): boolean {
    if (Atomics.compareExchange(this.#words, this.#word, this.#self, 0) === this.#self) return true;
    Atomics.store(this.#words, this.#word, this.#self);
    return false;
  }

  /** The index of the holder, or -1. */
  holder(): number {
    return (Atomics.load(this.#words, this.#word) % NOTE) - 1;
  }

  /** Takes the mutex from a dead holder, with the note that may be there. Fails when another thread was faster. */
  steal(dead: number): boolean {
    const seen = Atomics.load(this.#words, this.#word);
    if ((seen % NOTE) - 1 !== dead) return false;
    return Atomics.compareExchange(this.#words, this.#word, seen, this.#self) === seen;
  }
}
