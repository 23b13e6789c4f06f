/**
 * A range lock in shared memory: the tracker of all requests that are in flight on a node, from whichever thread. Every
 * request registers its range and kind before it looks at anything, and the table of docs/locking.md says who waits
 * for whom. First come, first served, guests before copies; whoever releases grants what waited, and rings.
 */
import { assert, BlockError, type Clock, type Co } from "@spindle/base";
import { conflict, type LockKind } from "./lock-kind.ts";
import { Mutex } from "./mutex.ts";
import { generationOf, inPhase, kindOf, Phase, phaseOf, slotState, threadOf } from "./slot-state.ts";
import { BEFORE_ALL, LAST, MUTEX_WORD, NONE, SlotTable, STATISTICS } from "./slot-table.ts";
import type { Thread } from "./thread-table.ts";
import { WaitMeter, waitedMs } from "./wait-meter.ts";

/** Requests in flight and waiting, unless `slots` says otherwise. */
const DEFAULT_SLOTS = 2048;

/** About a millisecond of trying: recovery is rare, and its caller wants it done. */
const RECOVERY_LIMIT = 50_000;

/** Structured-cloneable; every thread makes its own {@link RangeLock} from it. */
export interface RangeLockHandle {
  readonly memory: SharedArrayBuffer;
  readonly slots: number;
}

/** A request in the table, for diagnostics. */
export interface InFlightRequest {
  readonly kind: LockKind;
  /** Bytes; the range ends before `end`. */
  readonly start: number;
  readonly end: number;
  /** Index of its thread in the thread table. */
  readonly thread: number;
  readonly ticket: number;
  /** It waits and holds nothing yet. */
  readonly waiting: boolean;
}

/** Counted since the lock was made, over all threads. */
export interface RangeLockStatistics {
  /** Requests so far. */
  readonly requests: number;
  /** Requests that had to wait for others. */
  readonly waits: number;
  /** `waitedFor[asked][held]`: requests of kind `asked` that first met one of kind `held`. */
  readonly waitedFor: readonly (readonly number[])[];
  /** Milliseconds that granted requests waited for others, where a clock measures it. */
  readonly waitedMs: number;
  readonly longestWaitMs: number;
  /** Times that all slots were taken. */
  readonly slotWaits: number;
  /** Times that the mutex stayed taken for so long that a request slept. */
  readonly mutexWaits: number;
}

export class RangeLock {
  /** For other threads. */
  readonly handle: RangeLockHandle;
  readonly #thread: Thread;
  readonly #table: SlotTable;
  readonly #mutex: Mutex;
  readonly #meter: WaitMeter | undefined;

  /** @param options `slots`: requests in flight and waiting at most, 1 to 2048; more of them wait for a slot */
  static create(options: { slots?: number } = {}): RangeLockHandle {
    const slots = options.slots ?? DEFAULT_SLOTS;
    assert(Number.isInteger(slots) && slots >= 1 && slots <= DEFAULT_SLOTS, "a range lock has 1 to 2048 slots");
    return { memory: SlotTable.create(slots), slots };
  }

  /**
   * @param thread the calling thread; all users of one lock are attached to the same thread table
   * @param clock measures how long this thread's requests wait; without one it is not measured
   */
  constructor(handle: RangeLockHandle, thread: Thread, clock?: Clock) {
    this.handle = handle;
    this.#meter = clock === undefined ? undefined : new WaitMeter(handle.memory, clock);
    this.#thread = thread;
    this.#table = new SlotTable(handle.memory, handle.slots);
    this.#mutex = new Mutex(this.#table.words, MUTEX_WORD, thread.index);
  }

  /**
   * Takes a range (bytes; it ends before `end`) if nothing is in the way.
   * @returns what {@link release} wants, or -1 when it would have to wait.
   */
  tryAcquire(kind: LockKind, start: number, end: number): number {
    checkRange(start, end);
    return this.#attempt(kind, start, end, false);
  }

  /**
   * Takes a range and waits for what is in the way. A held range is never extended: release it and take the larger
   * one, or two threads that do so may wait for each other.
   * @returns what {@link release} wants.
   * @throws {BlockError} ECANCELED when `canceled()` became true before the range was granted.
   */
  *acquire(kind: LockKind, start: number, end: number, canceled?: () => boolean): Co<number> {
    checkRange(start, end);
    let placed = this.#attempt(kind, start, end, true);
    if (placed === NONE) placed = yield* this.#placeLater(kind, start, end, canceled);
    if (placed >= 0) return placed;
    const token = -2 - placed;
    const beganMs = this.#meter?.begin();
    if (!(yield* this.#granted(token, kind, canceled))) throw cancellation(start, end);
    if (beganMs !== undefined) this.#meter?.end(beganMs);
    return token;
  }

  /** Gives a range back, once. It never waits. */
  release(token: number): void {
    const slot = token % this.#table.slots;
    const state = Atomics.load(this.#table.states, slot);
    const current = phaseOf(state) === Phase.granted && generationOf(state) === Math.floor(token / this.#table.slots);
    assert(current, "release of a range that is not held");
    if (this.#mutex.tryLock()) {
      this.#table.retire(slot, state);
      this.#leave();
    } else {
      Atomics.store(this.#table.states, slot, inPhase(state, Phase.released));
      this.#settle();
    }
  }

  /** The ticket of the last request: every request in flight now has this one or a smaller one, later ones a larger. */
  ticket(): number {
    return this.#table.lastTicket();
  }

  /**
   * The smallest ticket among the requests in flight, or Infinity when there is none. What was freed at {@link ticket} `t`
   * may be used anew when `oldestTicket() > t`. It is 0 in the rare case that the table cannot be looked at now.
   */
  oldestTicket(): number {
    if (!this.#enter()) return 0;
    let oldest = Number.POSITIVE_INFINITY;
    for (const slot of this.#slots()) {
      const ticket = this.#table.tickets[slot] as number;
      if (ticket < oldest && isInFlight(Atomics.load(this.#table.states, slot))) oldest = ticket;
    }
    this.#leave();
    return oldest;
  }

  /**
   * The ranges held now that such a request would have to wait for. It is out of date when it is returned: good for
   * choosing what to try first. The whole range in the rare case that the table cannot be looked at now.
   */
  conflicts(kind: LockKind, start: number, end: number): readonly { start: number; end: number }[] {
    if (!this.#enter()) return [{ start, end }];
    const ranges: { start: number; end: number }[] = [];
    const table = this.#table;
    for (let slot = table.overlap(0, start, end); slot !== NONE; slot = table.overlap(slot + 1, start, end)) {
      const state = Atomics.load(table.states, slot);
      if (phaseOf(state) !== Phase.granted || !conflict(kind, kindOf(state))) continue;
      ranges.push({ start: table.starts[slot] as number, end: table.ends[slot] as number });
    }
    this.#leave();
    return ranges;
  }

  /** All requests in the table; a picture that may be torn in the rare case that the mutex is not to be had. */
  inFlight(): readonly InFlightRequest[] {
    const entered = this.#enter();
    const requests: InFlightRequest[] = [];
    for (const slot of this.#slots()) {
      const state = Atomics.load(this.#table.states, slot);
      if (!isInFlight(state)) continue;
      requests.push({
        kind: kindOf(state),
        start: this.#table.starts[slot] as number,
        end: this.#table.ends[slot] as number,
        thread: threadOf(state),
        ticket: this.#table.tickets[slot] as number,
        waiting: phaseOf(state) === Phase.waiting,
      });
    }
    if (entered) this.#leave();
    return requests;
  }

  /**
   * Frees all that a dead thread held or waited for, takes the mutex from it if it died with it, grants what can go on, and
   * rings everyone. The thread has ended, at whatever instruction. Give its index back to the table afterwards.
   * @returns how many requests were freed; -1 when another thread, which may be dead itself, holds the mutex for so long that
   *   this has been left to it or to its recovery. Then call again later before the index is given back.
   */
  recover(threadIndex: number): number {
    assert(threadIndex !== this.#thread.index, "a thread does not recover itself");
    this.#table.markDead(threadIndex);
    for (let round = 0; round < RECOVERY_LIMIT; round++) {
      if (this.#mutex.tryLock() || this.#stealFromDead()) return this.#collectAndLeave();
    }
    return this.#mutex.lockOrNote() ? this.#collectAndLeave() : NONE;
  }

  statistics(): RangeLockStatistics {
    const { first, kinds } = STATISTICS;
    const count = (index: number): number => Atomics.load(this.#table.words, first + index);
    const waitedFor = Array.from({ length: kinds }, (_, asked) =>
      Array.from({ length: kinds }, (_, held) => count(asked * kinds + held)),
    );
    const waits = waitedFor.flat().reduce((sum, number) => sum + number, 0);
    const slotWaits = count(kinds * kinds);
    const { total, longest } = waitedMs(this.handle.memory);
    return {
      requests: this.ticket(),
      waits,
      waitedFor,
      waitedMs: total,
      longestWaitMs: longest,
      slotWaits,
      mutexWaits: count(kinds * kinds + 1),
    };
  }

  /** Enters the request as soon as the mutex and a slot can be had: whoever has them rings. */
  *#placeLater(kind: LockKind, start: number, end: number, canceled?: () => boolean): Co<number> {
    const thread = this.#thread;
    for (;;) {
      const seen = thread.snapshot();
      const placed = this.#attempt(kind, start, end, true, true);
      if (placed !== NONE) return placed;
      yield { kind: "condition", ready: () => thread.snapshot() !== seen || canceled?.() === true };
      if (canceled?.() === true) throw cancellation(start, end);
    }
  }

  /** Waits for the grant. @returns false when the request was canceled first; it has left the table then. */
  *#granted(token: number, kind: LockKind, canceled?: () => boolean): Co<boolean> {
    const { states, slots } = this.#table;
    const slot = token % slots;
    const waiting = slotState(Math.floor(token / slots), this.#thread.index, kind, Phase.waiting);
    for (;;) {
      if (Atomics.load(states, slot) !== waiting) return true;
      if (canceled?.() === true) break;
      yield { kind: "condition", ready: () => Atomics.load(states, slot) !== waiting || canceled?.() === true };
    }
    // When the grant was faster, the range is held and has to be released.
    const canceledWord = inPhase(waiting, Phase.canceled);
    if (Atomics.compareExchange(states, slot, waiting, canceledWord) === waiting) this.#settle();
    else this.release(token);
    return false;
  }

  /** The slots in use. */
  #slots(): number[] {
    const slots: number[] = [];
    for (let slot = this.#table.overlap(0, BEFORE_ALL, LAST); slot !== NONE; ) {
      slots.push(slot);
      slot = this.#table.overlap(slot + 1, BEFORE_ALL, LAST);
    }
    return slots;
  }

  /** Enters the request. With `ask` this thread is rung when that failed and may succeed now. */
  #attempt(kind: LockKind, start: number, end: number, mayWait: boolean, ask = false): number {
    if (!(this.#enter() || (ask && this.#enterOrAsk()))) return NONE;
    const placed = this.#table.place(kind, start, end, this.#thread.index, mayWait);
    this.#leave();
    return placed;
  }

  #enter(): boolean {
    return this.#mutex.tryLock() || this.#mutex.spin();
  }

  /** Makes sure that this thread is rung when it can enter, unless it can right now. */
  #enterOrAsk(): boolean {
    this.#table.wantMutex(this.#thread.index);
    return this.#mutex.lockOrNote();
  }

  /** Sees to a slot that this thread has left behind: frees it here, or lets the holder of the mutex do it. */
  #settle(): void {
    if (this.#mutex.lockOrNote()) this.#collectAndLeave();
  }

  /** Does what notes ask for. @returns how many requests of dead threads were freed. */
  #collect(): number {
    this.#table.offerMutex();
    if (this.#table.hasDead()) return this.#table.rebuild();
    this.#table.sweep();
    return 0;
  }

  #collectAndLeave(): number {
    const count = this.#collect();
    this.#leave();
    return count;
  }

  #leave(): void {
    while (!this.#mutex.unlock()) this.#collect();
    const { rings } = this.#table;
    for (let word = 0; word < 2; word++) {
      let rest = rings[word] as number;
      rings[word] = 0;
      for (; rest !== 0; rest &= rest - 1) this.#thread.table.ring(word * 32 + 31 - Math.clz32(rest & -rest));
    }
  }

  #stealFromDead(): boolean {
    const holder = this.#mutex.holder();
    return holder >= 0 && this.#table.isDead(holder) && this.#mutex.steal(holder);
  }
}

function isInFlight(state: number): boolean {
  const phase = phaseOf(state);
  return phase === Phase.waiting || phase === Phase.granted;
}

function checkRange(start: number, end: number): void {
  assert(start >= 0 && start <= end, "a range has an order");
}

function cancellation(start: number, end: number): BlockError {
  return new BlockError("ECANCELED", "the request was canceled while it waited", {
    offset: start,
    length: end - start,
  });
}
