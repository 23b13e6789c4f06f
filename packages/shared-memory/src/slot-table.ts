/**
 * The shared memory of a range lock: slots, what can be derived from them, and who goes first. Whoever calls a method holds
 * the mutex, except where it says otherwise; rules and layout are in docs/locking.md.
 */
import { CONFLICTS, conflict, LockKind } from "./lock-kind.ts";
import { freed, generationOf, inPhase, kindOf, Phase, phaseOf, slotState, threadOf } from "./slot-state.ts";

/** Waiting copies are overtaken by this many conflicting requests; then they take their turn among the others. */
const BYPASS_LIMIT = 16;

/** In both words of a set of threads. */
const ALL_THREADS = -1;

const KINDS = 5;
const HEADER_WORDS = 64;

/** The word of the mutex, alone in its cache line. */
export const MUTEX_WORD = 0;
const TICKET_LOW = 16;
const TICKET_HIGH = 17;
/** Words of the active bitmap that are in use, from the first on. */
const ACTIVE_END = 18;
const WAITING = 19;
/** Two words each: a bit for every thread that wants a slot, that wants the mutex, that died. */
const SLOT_WANTED = 20;
const MUTEX_WANTED = 22;
const DEAD = 24;
/** Statistics: by asked kind and blocking kind, then two more. */
const WAITS = 32;
const SLOT_WAITS: number = WAITS + KINDS * KINDS;
const MUTEX_WAITS: number = SLOT_WAITS + 1;

/** No slot, or none now. */
export const NONE = -1;

/** The ticket of a request that comes behind everyone, and the end of a range that covers everything. */
export const LAST: number = Number.POSITIVE_INFINITY;

/** Below every offset: where a range begins that covers everything, and where the ranges of free slots end. */
export const BEFORE_ALL = -1;

/** The words from the statistics on that count how often which kind waited for which. */
export const STATISTICS: { readonly first: number; readonly kinds: number } = { first: WAITS, kinds: KINDS };

export class SlotTable {
  readonly slots: number;
  readonly words: Int32Array;
  readonly states: Int32Array;
  readonly starts: Float64Array;
  readonly ends: Float64Array;
  readonly tickets: Float64Array;
  readonly #active: Int32Array;
  readonly #bypassed: Int32Array;
  /** Threads to ring when the mutex is free again: bits of this thread's own memory. */
  readonly rings: Int32Array = new Int32Array(2);

  /** Makes the memory of an empty table. */
  static create(slots: number): SharedArrayBuffer {
    const words = HEADER_WORDS + activeWords(slots) + 2 * evenly(slots);
    const bytes = words * Int32Array.BYTES_PER_ELEMENT + 3 * slots * Float64Array.BYTES_PER_ELEMENT;
    const memory = new SharedArrayBuffer(bytes);
    new SlotTable(memory, slots).ends.fill(BEFORE_ALL);
    return memory;
  }

  constructor(memory: SharedArrayBuffer, slots: number) {
    this.slots = slots;
    let offset = 0;
    const words = (length: number): Int32Array => {
      const view = new Int32Array(memory, offset, length);
      offset += view.byteLength;
      return view;
    };
    const numbers = (): Float64Array => {
      const view = new Float64Array(memory, offset, slots);
      offset += view.byteLength;
      return view;
    };
    this.words = words(HEADER_WORDS);
    this.#active = words(activeWords(slots));
    this.states = words(evenly(slots));
    this.#bypassed = words(evenly(slots));
    this.starts = numbers();
    this.ends = numbers();
    this.tickets = numbers();
  }

  /**
   * Enters a request: grants it, or queues it when `mayWait`.
   * @returns the token of a granted request, `-2 - token` of a queued one, or NONE when there is no slot (with `mayWait` the
   *   thread is rung when there is one again) or when it would have to wait and may not.
   */
  place(kind: LockKind, start: number, end: number, thread: number, mayWait: boolean): number {
    const blocker = this.blocker(kind, start, end, LAST, NONE);
    if (blocker !== NONE && !mayWait) return NONE;
    const slot = this.#freeSlot();
    if (slot === NONE) {
      if (mayWait) this.#wantSlot(thread);
      return NONE;
    }
    const promoted = this.#passCopies(kind, start, end);
    const token = this.#occupy(slot, kind, start, end);
    const generation = generationOf(this.states[slot] as number);
    if (blocker === NONE) {
      Atomics.store(this.states, slot, slotState(generation, thread, kind, Phase.granted));
    } else {
      this.#countWait(kind, blocker);
      this.#add(WAITING, 1);
      Atomics.store(this.states, slot, slotState(generation, thread, kind, Phase.waiting));
    }
    if (promoted) this.regrant(LockKind.change, BEFORE_ALL, LAST);
    return blocker === NONE ? token : -2 - token;
  }

  /** The slot of a request that stands in the way of this one, or NONE. `ticket` and `self` are those of a waiting request. */
  blocker(kind: LockKind, start: number, end: number, ticket: number, self: number): number {
    const mask = CONFLICTS[kind] as number;
    for (let slot = this.overlap(0, start, end); slot !== NONE; slot = this.overlap(slot + 1, start, end)) {
      if (slot === self) continue;
      const state = Atomics.load(this.states, slot);
      if (((mask >> kindOf(state)) & 1) === 0) continue;
      const phase = phaseOf(state);
      if (phase === Phase.granted) return slot;
      if (phase === Phase.waiting && this.#precedes(slot, state, kind, ticket, self)) return slot;
    }
    return NONE;
  }

  /** Frees a slot and grants what waited for it. `state` is what its word says. */
  retire(slot: number, state: number): void {
    const phase = phaseOf(state);
    if (phase === Phase.waiting || phase === Phase.canceled) this.#add(WAITING, -1);
    const end = this.ends[slot] as number;
    this.#deactivate(slot);
    Atomics.store(this.states, slot, freed(state));
    this.#offerSlot();
    this.regrant(kindOf(state), this.starts[slot] as number, end);
  }

  /**
   * Grants every waiting request that can go on now that a request of this kind and range is gone. One pass in any order does:
   * a grant makes no other request grantable.
   */
  regrant(kind: LockKind, start: number, end: number): void {
    if (this.words[WAITING] === 0) return;
    for (let slot = this.overlap(0, start, end); slot !== NONE; slot = this.overlap(slot + 1, start, end)) {
      const state = Atomics.load(this.states, slot);
      if (phaseOf(state) === Phase.waiting && conflict(kind, kindOf(state))) this.#grantIfFree(slot, state);
    }
  }

  /** Frees every slot whose thread left it behind without the mutex. */
  sweep(): void {
    for (let slot = this.overlap(0, BEFORE_ALL, LAST); slot !== NONE; slot = this.overlap(slot + 1, BEFORE_ALL, LAST)) {
      const state = Atomics.load(this.states, slot);
      if (phaseOf(state) >= Phase.canceled) this.retire(slot, state);
    }
  }

  /**
   * Frees the slots of all threads marked dead and derives everything else anew from the slots: the dead may have stopped
   * halfway through any change.
   * @returns how many requests of dead threads were freed.
   */
  rebuild(): number {
    const low = Atomics.load(this.words, DEAD);
    const high = Atomics.load(this.words, DEAD + 1);
    this.#active.fill(0);
    this.words[ACTIVE_END] = 0;
    this.words[WAITING] = 0;
    let count = 0;
    for (let slot = 0; slot < this.slots; slot++) {
      const state = Atomics.load(this.states, slot);
      const phase = phaseOf(state);
      const dead = hasBit(low, high, threadOf(state));
      if (phase === Phase.free) this.ends[slot] = BEFORE_ALL;
      else if (dead || phase >= Phase.canceled) {
        if (dead) count += 1;
        this.ends[slot] = BEFORE_ALL;
        Atomics.store(this.states, slot, freed(state));
      } else {
        this.#activate(slot);
        if (phase === Phase.waiting) this.#add(WAITING, 1);
      }
    }
    this.regrant(LockKind.change, BEFORE_ALL, LAST);
    Atomics.and(this.words, DEAD, ~low);
    Atomics.and(this.words, DEAD + 1, ~high);
    // The dead may have granted and not rung any more.
    this.rings.fill(ALL_THREADS);
    return count;
  }

  /** Whether some thread is marked dead and not cleared away yet. */
  hasDead(): boolean {
    return Atomics.load(this.words, DEAD) !== 0 || Atomics.load(this.words, DEAD + 1) !== 0;
  }

  /** Needs no mutex. */
  isDead(thread: number): boolean {
    return (Atomics.load(this.words, DEAD + (thread >> 5)) & (1 << (thread & 31))) !== 0;
  }

  /** Needs no mutex. */
  markDead(thread: number): void {
    Atomics.or(this.words, DEAD + (thread >> 5), 1 << (thread & 31));
  }

  /** Asks for a ring when the mutex is free. Needs no mutex; a note must follow. */
  wantMutex(thread: number): void {
    Atomics.add(this.words, MUTEX_WAITS, 1);
    Atomics.or(this.words, MUTEX_WANTED + (thread >> 5), 1 << (thread & 31));
  }

  /** Lets those who want the mutex be rung. */
  offerMutex(): void {
    this.#ringLater(Atomics.exchange(this.words, MUTEX_WANTED, 0), Atomics.exchange(this.words, MUTEX_WANTED + 1, 0));
  }

  /** The number of the last request; needs no mutex. It may be too high for a moment, never too low. */
  lastTicket(): number {
    for (;;) {
      const high = Atomics.load(this.words, TICKET_HIGH);
      const low = Atomics.load(this.words, TICKET_LOW);
      if (Atomics.load(this.words, TICKET_HIGH) === high) return high * 2 ** 32 + (low >>> 0);
    }
  }

  /** The next slot in use, from `from` on, that overlaps the range; NONE when there is none. */
  overlap(from: number, start: number, end: number): number {
    const { starts, ends } = this;
    const active = this.#active;
    const limit = Math.min((this.words[ACTIVE_END] as number) * 32, this.slots);
    for (let slot = from; slot < limit; ) {
      const wordEnd = Math.min((slot | 31) + 1, limit);
      if (active[slot >> 5] === 0) slot = wordEnd;
      for (; slot < wordEnd; slot++) {
        if ((ends[slot] as number) > start && (starts[slot] as number) < end) return slot;
      }
    }
    return NONE;
  }

  #grantIfFree(slot: number, state: number): void {
    const ticket = this.tickets[slot] as number;
    const start = this.starts[slot] as number;
    if (this.blocker(kindOf(state), start, this.ends[slot] as number, ticket, slot) !== NONE) return;
    // Its thread may cancel at this moment; then the slot is left for a sweep.
    if (Atomics.compareExchange(this.states, slot, state, inPhase(state, Phase.granted)) !== state) return;
    this.#add(WAITING, -1);
    this.#ringThread(threadOf(state));
  }

  /** Whether a waiting request goes before another one: guests before copies, then by ticket. */
  #precedes(slot: number, state: number, kind: LockKind, ticket: number, self: number): boolean {
    const copy = this.#givesWay(kindOf(state), slot);
    if (copy !== this.#givesWay(kind, self)) return !copy;
    return (this.tickets[slot] as number) < ticket;
  }

  #givesWay(kind: LockKind, slot: number): boolean {
    return kind === LockKind.copy && (slot === NONE || (this.#bypassed[slot] as number) < BYPASS_LIMIT);
  }

  /** Counts that a guest's request overtakes the copies that wait for its range. @returns whether one has had enough. */
  #passCopies(kind: LockKind, start: number, end: number): boolean {
    if (this.words[WAITING] === 0 || kind === LockKind.copy || !conflict(kind, LockKind.copy)) return false;
    let promoted = false;
    for (let slot = this.overlap(0, start, end); slot !== NONE; slot = this.overlap(slot + 1, start, end)) {
      const state = Atomics.load(this.states, slot);
      if (kindOf(state) !== LockKind.copy || phaseOf(state) !== Phase.waiting) continue;
      const bypassed = (this.#bypassed[slot] as number) + 1;
      this.#bypassed[slot] = bypassed;
      if (bypassed === BYPASS_LIMIT) promoted = true;
    }
    return promoted;
  }

  /** Fills a slot that is still free to all others. @returns its token. */
  #occupy(slot: number, kind: LockKind, start: number, end: number): number {
    this.starts[slot] = start;
    this.ends[slot] = end;
    this.tickets[slot] = this.#nextTicket();
    if (kind === LockKind.copy) this.#bypassed[slot] = 0;
    this.#activate(slot);
    return generationOf(this.states[slot] as number) * this.slots + slot;
  }

  #nextTicket(): number {
    const before = this.words[TICKET_LOW] as number;
    // The high word first: whoever reads in between gets a number that is too high.
    if (before === -1) Atomics.add(this.words, TICKET_HIGH, 1);
    Atomics.store(this.words, TICKET_LOW, (before + 1) | 0);
    return (this.words[TICKET_HIGH] as number) * 2 ** 32 + ((before + 1) >>> 0);
  }

  #freeSlot(): number {
    for (let word = 0; word < this.#active.length; word++) {
      const free = ~(this.#active[word] as number);
      if (free === 0) continue;
      const slot = word * 32 + lowestBit(free);
      return slot < this.slots ? slot : NONE;
    }
    return NONE;
  }

  #activate(slot: number): void {
    const word = slot >> 5;
    this.#active[word] = (this.#active[word] as number) | (1 << (slot & 31));
    if (word >= (this.words[ACTIVE_END] as number)) this.words[ACTIVE_END] = word + 1;
  }

  #deactivate(slot: number): void {
    const word = slot >> 5;
    this.#active[word] = (this.#active[word] as number) & ~(1 << (slot & 31));
    this.ends[slot] = BEFORE_ALL;
    let end = this.words[ACTIVE_END] as number;
    while (end > 0 && this.#active[end - 1] === 0) end -= 1;
    this.words[ACTIVE_END] = end;
  }

  #wantSlot(thread: number): void {
    this.#add(SLOT_WAITS, 1);
    const word = SLOT_WANTED + (thread >> 5);
    this.words[word] = (this.words[word] as number) | (1 << (thread & 31));
  }

  #offerSlot(): void {
    this.#ringLater(this.words[SLOT_WANTED] as number, this.words[SLOT_WANTED + 1] as number);
    this.words[SLOT_WANTED] = 0;
    this.words[SLOT_WANTED + 1] = 0;
  }

  #countWait(kind: LockKind, blocker: number): void {
    this.#add(WAITS + kind * KINDS + kindOf(this.states[blocker] as number), 1);
  }

  #ringThread(thread: number): void {
    this.rings[thread >> 5] = (this.rings[thread >> 5] as number) | (1 << (thread & 31));
  }

  #ringLater(low: number, high: number): void {
    this.rings[0] = (this.rings[0] as number) | low;
    this.rings[1] = (this.rings[1] as number) | high;
  }

  #add(word: number, amount: number): void {
    this.words[word] = (this.words[word] as number) + amount;
  }
}

function activeWords(slots: number): number {
  return evenly(Math.ceil(slots / 32));
}

/** So many words, or one more, that what follows is aligned to 8 bytes. */
function evenly(words: number): number {
  return words + (words % 2);
}

function lowestBit(word: number): number {
  return 31 - Math.clz32(word & -word);
}

function hasBit(low: number, high: number, bit: number): boolean {
  return (((bit < 32 ? low : high) >> (bit & 31)) & 1) !== 0;
}
