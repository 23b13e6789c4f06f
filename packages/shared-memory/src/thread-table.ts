/** The threads that share memory: each has an index from 0 to 63 and a doorbell. */
import { BlockError, type Waiter } from "@spindle/base";
import { Doorbell } from "./doorbell.ts";

/** Threads of one table at most. */
export const MAX_THREADS = 64;

// One cache line of 16 words a thread: the doorbell's words, then whether the index is taken.
const THREAD_WORDS = 16;
const STATE = 2;

const FREE = 0;
const ATTACHED = 1;

/** Structured-cloneable; every thread makes its own {@link ThreadTable} from it. */
export interface ThreadTableHandle {
  readonly memory: SharedArrayBuffer;
}

export class ThreadTable {
  readonly #words: Int32Array;
  readonly #doorbells: readonly Doorbell[];

  static create(): ThreadTableHandle {
    return { memory: new SharedArrayBuffer(MAX_THREADS * THREAD_WORDS * Int32Array.BYTES_PER_ELEMENT) };
  }

  constructor(handle: ThreadTableHandle) {
    const words = new Int32Array(handle.memory);
    this.#words = words;
    this.#doorbells = Array.from({ length: MAX_THREADS }, (_, index) => new Doorbell(words, index * THREAD_WORDS));
  }

  /**
   * Claims a free index for the calling thread.
   * @throws {BlockError} EAGAIN when 64 threads are attached.
   */
  attach(): Thread {
    for (let index = 0; index < MAX_THREADS; index++) {
      const state = index * THREAD_WORDS + STATE;
      if (Atomics.compareExchange(this.#words, state, FREE, ATTACHED) !== FREE) continue;
      const doorbell = this.#doorbells[index] as Doorbell;
      doorbell.reset();
      return new Thread(this, index, doorbell);
    }
    throw new BlockError("EAGAIN", `${MAX_THREADS} threads are attached already`);
  }

  /** Rings the doorbell of the thread with this index, whether or not one is attached. */
  ring(index: number): void {
    this.#doorbells[index]?.ring();
  }

  /**
   * Gives the index of a thread back that died attached. First {@link RangeLock.recover} every lock that it used: a new
   * thread with the same index would be taken for the dead one.
   */
  free(index: number): void {
    Atomics.store(this.#words, index * THREAD_WORDS + STATE, FREE);
  }
}

/** The calling thread's place in a {@link ThreadTable}, and what its runner sleeps on. */
export class Thread implements Waiter {
  readonly table: ThreadTable;
  readonly index: number;
  readonly #doorbell: Doorbell;

  /** Made by {@link ThreadTable.attach}. */
  constructor(table: ThreadTable, index: number, doorbell: Doorbell) {
    this.table = table;
    this.index = index;
    this.#doorbell = doorbell;
  }

  snapshot(): number {
    return this.#doorbell.snapshot();
  }

  wait(seen: number, timeoutMs?: number): void {
    this.#doorbell.wait(seen, timeoutMs);
  }

  waitAsync(seen: number, timeoutMs?: number): Promise<unknown> | undefined {
    return this.#doorbell.waitAsync(seen, timeoutMs);
  }

  ring(): void {
    this.#doorbell.ring();
  }

  /** Gives the index back. The thread holds no lock and waits for none. */
  detach(): void {
    this.table.free(this.index);
    // Whoever still waits asynchronously is let go.
    this.#doorbell.ring();
  }
}
