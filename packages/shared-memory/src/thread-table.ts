/** The threads that share memory: each has an index from 0 to 63 and a doorbell. */
import { assert, BlockError, type Waiter } from "@spindle/base";
import { Doorbell } from "./doorbell.ts";

/** Threads of one table at most. */
export const MAX_THREADS = 64;

// One cache line of 16 words a thread: the doorbell's words, then whether the index is taken, then the descriptor that
// the thread sleeps in, plus one.
const THREAD_WORDS = 16;
const STATE = 2;
const DESCRIPTOR = 3;

const FREE = 0;
const ATTACHED = 1;

/** Structured-cloneable; every thread makes its own {@link ThreadTable} from it. */
export interface ThreadTableHandle {
  readonly memory: SharedArrayBuffer;
}

export class ThreadTable {
  readonly #words: Int32Array;
  readonly #doorbells: readonly Doorbell[];
  readonly #wake: ((descriptor: number) => void) | undefined;

  static create(): ThreadTableHandle {
    return { memory: new SharedArrayBuffer(MAX_THREADS * THREAD_WORDS * Int32Array.BYTES_PER_ELEMENT) };
  }

  /** @param wake ends the sleep of a thread that sleeps in this descriptor; needed where there may be such threads */
  constructor(handle: ThreadTableHandle, wake?: (descriptor: number) => void) {
    const words = new Int32Array(handle.memory);
    this.#words = words;
    this.#wake = wake;
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
      this.setDescriptor(index, undefined);
      return new Thread(this, index, doorbell);
    }
    throw new BlockError("EAGAIN", `${MAX_THREADS} threads are attached already`);
  }

  /** Rings the doorbell of the thread with this index, whether or not one is attached. */
  ring(index: number): void {
    this.#doorbells[index]?.ring();
    // As with the sleepers of a doorbell: the number has changed before this look, and the sleeper says where it sleeps
    // before it compares the number.
    const descriptor = Atomics.load(this.#words, index * THREAD_WORDS + DESCRIPTOR) - 1;
    if (descriptor < 0) return;
    assert(this.#wake !== undefined, "a thread sleeps in a descriptor, and this table cannot wake it");
    this.#wake(descriptor);
  }

  /** Says where a thread sleeps: in a descriptor, or in none. */
  setDescriptor(index: number, descriptor: number | undefined): void {
    Atomics.store(this.#words, index * THREAD_WORDS + DESCRIPTOR, (descriptor ?? -1) + 1);
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

  /**
   * Sleeps in a call of the host that returns when `descriptor` becomes ready. A ring through the table makes it so; the
   * callee does not sleep when the number is no longer `seen`.
   */
  waitIn(descriptor: number, seen: number, sleep: () => void): void {
    this.table.setDescriptor(this.index, descriptor);
    if (this.snapshot() === seen) sleep();
    this.table.setDescriptor(this.index, undefined);
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
