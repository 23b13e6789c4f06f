/**
 * One execution of a program on the rewritten source, one step at a time: whoever drives it chooses which thread goes on,
 * is canceled, or dies. After every step the specification looks at the slots.
 */
import { AssertionError } from "@spindle/base";
import { DEAD, HEADER_WORDS, isPrivate, MUTEX_WORD, NOTE, type Privacy, TICKET_LOW, WANTED } from "./private-steps.ts";
import type { Action, Program } from "./program.ts";
import { mayNotMeet, type Range, type SlotView, Specification, Violation } from "./specification.ts";
import type { Build, Condition, SlotArrays, Step, SteppedLock, Stepper } from "./stepped-lock.ts";

const RUN = 0;
const CANCEL = 1;
const KILL = 2;

/** Others take the mutex a few times at most before a recovery. */
const MOST_RECOVERIES = 8;

/** What happens next: a thread goes on, is canceled, or dies. */
export type Choice = number;

interface ThreadState {
  readonly index: number;
  readonly actions: readonly Action[];
  readonly recovers: number;
  next: Step | Condition | undefined;
  /** Sleeps until its doorbell has rung since it looked. */
  asleep: boolean;
  rung: boolean;
  dead: boolean;
  canceled: boolean;
  cancelable: boolean;
  /** The functions that it is in, the innermost last. */
  readonly frames: Frame[];
  /** Its own copy of a field that outlives calls: the threads that it has still to ring. */
  rings: Int32Array;
}

/**
 * A function that was called, and a hash of all that it has observed: its local state follows from that. When it returns
 * only its result is left of it.
 */
interface Frame {
  readonly co: Stepper<unknown>;
  low: number;
  high: number;
}

export interface Saved {
  readonly before: SlotView[];
  readonly frames: readonly number[];
}

interface Held extends Range {
  readonly thread: number;
  readonly token: number;
}

export class World {
  readonly #build: Build;
  readonly #program: Program;
  readonly #handle: { memory: SharedArrayBuffer; slots: number };
  readonly #words: Int32Array;
  readonly #table: SlotArrays;
  readonly #threads: ThreadState[] = [];
  readonly #specification: Specification;
  readonly #held: Held[] = [];
  readonly #privacy: Privacy;
  readonly #bypassAt: number;
  #deathsLeft: number;
  #unrecovered = 0;
  #current: ThreadState | undefined;
  #replaying = false;

  constructor(made: Build, program: Program) {
    this.#build = made;
    this.#program = program;
    this.#handle = made.RangeLock.create({ slots: program.slots ?? program.threads.length });
    this.#words = new Int32Array(this.#handle.memory);
    this.#table = new made.SlotTable(this.#handle.memory, this.#handle.slots);
    this.#bypassAt = this.#table.states.byteOffset / 4 + this.#table.states.length;
    this.#specification = new Specification(made.bypassLimit);
    const actions = program.threads.flat();
    this.#privacy = {
      words: this.#words,
      states: this.#table.states,
      tickets: actions.some((action) => action.do === "ticket"),
      cancels: actions.some((action) => "cancelable" in action),
      deaths: program.deaths !== undefined,
    };
    this.#deathsLeft = program.deaths ?? 0;
    this.#look();
    for (const actions of program.threads) this.#start(actions, -1);
  }

  /** What can happen now; empty at the end. */
  choices(): Choice[] {
    const choices: Choice[] = [];
    for (const thread of this.#threads) {
      if (thread.dead || thread.next === undefined) continue;
      // What this thread does next, and what happens to it, commutes with all that others may do before: one order will do.
      if (isPrivate(this.#privacy, thread, this.#threads)) return this.#choicesOf(thread);
      choices.push(...this.#choicesOf(thread));
    }
    return choices;
  }

  #canRun(thread: ThreadState): boolean {
    const { next } = thread;
    // A patient thread goes on when the mutex is free.
    if (Array.isArray(next) && next[0] === "await") return this.#words[MUTEX_WORD] === 0;
    // A recovery that could not enter is tried again when the mutex can be had.
    if (thread.recovers >= 0 && !Array.isArray(next)) return (next as Condition).ready();
    return !thread.asleep || thread.rung;
  }

  #choicesOf(thread: ThreadState): Choice[] {
    const at = thread.index * 3;
    const choices: Choice[] = [];
    if (this.#canRun(thread)) choices.push(at + RUN);
    if (thread.cancelable && !thread.canceled) choices.push(at + CANCEL);
    if (this.#deathsLeft > 0) choices.push(at + KILL);
    return choices;
  }

  /** What cannot be had by repeating choices alone; see {@link replayed}. */
  save(): Saved {
    const frames = this.#threads.flatMap((thread) => thread.frames.flatMap(({ low, high }) => [low, high]));
    return { before: this.#specification.before, frames };
  }

  /** A world in which these choices have been made, without looking at each step again. */
  static replayed(made: Build, program: Program, path: readonly Choice[], saved: Saved): World {
    const world = new World(made, program);
    world.#replaying = true;
    for (const choice of path) world.apply(choice);
    world.#replaying = false;
    world.#specification.before = saved.before;
    let at = 0;
    for (const thread of world.#threads) {
      for (const frame of thread.frames) {
        frame.low = saved.frames[at++] as number;
        frame.high = saved.frames[at++] as number;
      }
    }
    return world;
  }

  /** Makes one choice happen. @throws {Violation} when something does not hold afterwards. */
  apply(choice: Choice): void {
    const thread = this.#threads[Math.floor(choice / 3)] as ThreadState;
    if (choice % 3 === KILL) this.#kill(thread);
    else if (choice % 3 === CANCEL) {
      thread.canceled = true;
      thread.rung = true;
    } else this.#run(thread);
    this.#look();
  }

  /** @throws {Violation} unless the end is a proper one: everyone has finished, and nothing is left behind. */
  checkEnd(): void {
    for (const { index, next, dead } of this.#threads) {
      if (next !== undefined && !dead) throw new Violation(`thread ${index} sleeps and nobody will wake it`);
    }
    const left = this.#slots().filter(({ phase }) => phase !== 0);
    if (left.length > 0) throw new Violation(`${left.length} slots are not free at the end`);
    if (this.#words[MUTEX_WORD] !== 0) throw new Violation("the mutex is held at the end");
    // Waiting count and active bitmap are derived from the slots, and these are free.
    for (const word of [18, 19, HEADER_WORDS]) {
      if (this.#words[word] !== 0) throw new Violation(`word ${word} is not zero at the end`);
    }
  }

  /** A hash of the state, 52 bits. */
  key(): number {
    let low = 0x2545f491;
    let high = 0x1b873593;
    const mix = (value: number): void => {
      low = Math.imul(low ^ value, 0x5bd1e995);
      low ^= low >>> 15;
      high = Math.imul(high ^ value, 0x1b56c4e9) + low;
      high ^= high >>> 13;
    };
    this.#hashMemory(mix);
    for (const overtaken of this.#specification.overtaken) mix(overtaken);
    for (const thread of this.#threads) {
      const { asleep, rung, dead, canceled, cancelable, next } = thread;
      mix(+asleep + 2 * +rung + 4 * +dead + 8 * +canceled + 16 * +cancelable + 32 * +(next === undefined));
      for (const frame of thread.frames) {
        mix(frame.low);
        mix(frame.high);
      }
      mix((thread.rings[0] as number) + thread.frames.length * 16);
    }
    mix(this.#deathsLeft);
    return (low >>> 0) * 2 ** 20 + ((high >>> 0) & 0xfffff);
  }

  /** What a choice would do, for the report of a violation. */
  describe(choice: Choice): string {
    const { index, next } = this.#threads[Math.floor(choice / 3)] as ThreadState;
    if (choice % 3 !== RUN) return `thread ${index} ${choice % 3 === KILL ? "dies" : "is canceled"}`;
    if (!Array.isArray(next)) return `thread ${index} looks whether it can go on`;
    const [name, array, ...args] = next as [string, unknown, ...number[]];
    const where = array === this.#table.states || args.length === 0 ? "" : "word ";
    const target = ArrayBuffer.isView(array)
      ? `${array.byteOffset === 0 ? where : "state "}${args.join(", ")}`
      : `${array ?? ""}`;
    return `thread ${index}: ${name} ${target}`;
  }

  #start(actions: readonly Action[], recovers: number): void {
    const index = this.#threads.length;
    const thread: ThreadState = {
      index,
      actions,
      recovers,
      next: undefined,
      asleep: false,
      rung: false,
      dead: false,
      canceled: false,
      cancelable: false,
      frames: [],
      rings: new Int32Array(2),
    };
    const identity = { index, table: {}, snapshot: () => (thread.rung ? 1 : 0) };
    const { hooks } = this.#build;
    hooks.rings = () => thread.rings;
    hooks.fresh = () => this.#fresh();
    const lock = new this.#build.RangeLock(this.#handle, identity);
    const co = recovers < 0 ? this.#perform(thread, lock) : this.#recover(thread, lock);
    thread.frames.push({ co, low: 0, high: 0 });
    this.#threads.push(thread);
    this.#resume(thread, 0);
  }

  *#perform(thread: ThreadState, lock: SteppedLock): Stepper<void> {
    const taken: Held[] = [];
    for (let position = 0; position < thread.actions.length; position++) {
      const action = thread.actions[position] as Action;
      // Between two actions the local state is where the thread stands and what it holds.
      const hash = taken.reduce((sum, held) => Math.imul(sum, 31) + held.token + 1, 7);
      this.#settleFrame(thread, position + 1, hash);
      if (action.do === "ticket") yield* this.#checkTickets(lock);
      else if (action.do === "drop") yield* this.#drop(lock, taken.shift() as Held);
      else {
        const held = yield* this.#take(thread, lock, action);
        if (held === undefined) continue;
        if (this.#program.hold === true) yield ["hold"];
        if (action.do === "take") taken.push(held);
        else yield* this.#drop(lock, held);
      }
    }
    this.#settleFrame(thread, -1, 0);
  }

  *#take(
    thread: ThreadState,
    lock: SteppedLock,
    action: Action & { do: "use" | "try" | "take" },
  ): Stepper<Held | undefined> {
    const { kind, start, end } = action;
    let token = -1;
    if (action.do === "try") token = (yield lock.tryAcquire(kind, start, end)) as number;
    else if (action.do === "use" && action.cancelable === true) {
      thread.cancelable = true;
      try {
        token = (yield lock.acquire(kind, start, end, () => thread.canceled)) as number;
      } catch (error) {
        if ((error as { code?: unknown }).code !== "ECANCELED") throw error;
        if (!thread.canceled) throw new Violation("canceled, and nobody asked for it");
      }
      thread.cancelable = false;
      thread.canceled = false;
    } else token = (yield lock.acquire(kind, start, end)) as number;
    if (token < 0) return undefined;
    const held = { kind, start, end, token, thread: thread.index };
    const clash = this.#held.find((other) => mayNotMeet(held, other));
    if (clash !== undefined)
      throw new Violation(`threads ${held.thread} and ${clash.thread} both hold what may not meet`);
    this.#held.push(held);
    return held;
  }

  *#drop(lock: SteppedLock, held: Held): Stepper<void> {
    this.#held.splice(this.#held.indexOf(held), 1);
    yield lock.release(held.token);
  }

  *#checkTickets(lock: SteppedLock): Stepper<void> {
    yield ["hold"];
    const inFlight = [...this.#held];
    const ticket = (yield lock.ticket()) as number;
    const oldest = (yield lock.oldestTicket()) as number;
    const early = inFlight.find((held) => this.#held.includes(held));
    if (oldest > ticket && early !== undefined)
      throw new Violation(`thread ${early.thread} was in flight at ticket ${ticket}, and the oldest is ${oldest}`);
  }

  *#recover(thread: ThreadState, lock: SteppedLock): Stepper<void> {
    for (let attempt = 0; ((yield lock.recover(thread.recovers)) as number) < 0; attempt++) {
      if (attempt === MOST_RECOVERIES) throw new Violation("a recovery never gets anywhere");
      this.#settleFrame(thread, 0x5eed + attempt, 0);
      yield { kind: "condition", ready: () => this.#mutexCanBeHad() };
    }
    this.#unrecovered -= 1;
    this.#settleFrame(thread, -1, 0);
  }

  #mutexCanBeHad(): boolean {
    const holder = ((this.#words[MUTEX_WORD] as number) % NOTE) - 1;
    // From a dead holder it can be had as soon as somebody has begun to recover that one.
    return holder < 0 || ((this.#words[DEAD] as number) & (1 << holder)) !== 0;
  }

  #kill(thread: ThreadState): void {
    thread.dead = true;
    this.#deathsLeft -= 1;
    this.#unrecovered += 1;
    for (let index = this.#held.length - 1; index >= 0; index--) {
      if (this.#held[index]?.thread === thread.index) this.#held.splice(index, 1);
    }
    this.#start([], thread.index);
    if (thread.recovers < 0) return;
    // Its own recovery was still to be done: whoever recovers it begins with that one.
    this.#unrecovered -= 1;
    this.#start([], thread.recovers);
  }

  #run(thread: ThreadState): void {
    const { next } = thread;
    if (Array.isArray(next)) this.#resume(thread, this.#operate(thread, next as unknown as Step));
    else if ((next as Condition).ready()) {
      thread.asleep = false;
      this.#resume(thread, 1);
    } else {
      // A runner takes the doorbell's number, looks, and sleeps while the number is the same.
      thread.asleep = true;
      thread.rung = false;
    }
  }

  #operate(thread: ThreadState, step: Step): unknown {
    const [name, ...args] = step as [string, ...unknown[]];
    if (name === "ring") {
      const target = this.#threads[args[0] as number];
      if (target !== undefined) target.rung = true;
      return 0;
    }
    if (name === "snapshot") {
      thread.rung = false;
      return 0;
    }
    if (name === "await" || name === "hold") return 0;
    const operation = Atomics[name as "load"] as (...operands: unknown[]) => number;
    return operation.apply(Atomics, args);
  }

  /** Runs the thread's code to its next step. */
  #resume(thread: ThreadState, value: unknown): void {
    this.#current = thread;
    let given = value;
    let thrown: unknown;
    thread.next = undefined;
    for (let frame = thread.frames.at(-1); frame !== undefined; frame = thread.frames.at(-1)) {
      this.#remember(frame, thrown === undefined ? Number(given) : -7);
      let result: IteratorResult<Step | Condition | Stepper<unknown>, unknown>;
      try {
        result = thrown === undefined ? frame.co.next(given) : frame.co.throw(thrown);
        thrown = undefined;
      } catch (error) {
        if (error instanceof AssertionError) throw new Violation(`assertion failed: ${error.message}`);
        if (error instanceof Violation || thread.frames.length === 1) throw error;
        thrown = error;
        thread.frames.pop();
        continue;
      }
      if (result.done === true) {
        thread.frames.pop();
        given = result.value;
        this.#rememberPlainMemory();
      } else if ("next" in (result.value as object)) {
        this.#rememberPlainMemory();
        thread.frames.push({ co: result.value as Stepper<unknown>, low: thread.frames.length, high: 0 });
        given = undefined;
        this.#rememberPlainMemory();
      } else {
        thread.next = result.value as Step | Condition;
        return;
      }
    }
  }

  /** Whoever holds the mutex sees all plain memory as it is now, and what it does next depends on that. */
  #rememberPlainMemory(): void {
    const thread = this.#current as ThreadState;
    const frame = thread.frames.at(-1);
    if (this.#replaying || frame === undefined) return;
    const holder = ((this.#words[MUTEX_WORD] as number) % NOTE) - 1;
    if (holder === thread.index) this.#hashPlainMemory((value) => this.#remember(frame, value));
  }

  #settleFrame(thread: ThreadState, low: number, high: number): void {
    const frame = thread.frames[0] as Frame;
    frame.low = low;
    frame.high = high;
  }

  #fresh(): true {
    const { frames } = this.#current as ThreadState;
    const frame = frames.at(-1) as Frame;
    frame.low = 0x10c4;
    frame.high = frames.length;
    return true;
  }

  #remember(frame: Frame, value: number): void {
    if (this.#replaying) return;
    frame.low = Math.imul(frame.low ^ value, 0x5bd1e995) + 0x3c6ef372;
    frame.low ^= frame.low >>> 15;
    frame.high = Math.imul(frame.high ^ value, 0x1b56c4e9) + frame.low;
    frame.high ^= frame.high >>> 13;
  }

  #look(): void {
    if (this.#replaying) return;
    const { states } = this.#table;
    const { before } = this.#specification;
    let same = before.length > 0;
    let leftBehind = false;
    for (let slot = 0; slot < this.#handle.slots; slot++) {
      const state = states[slot] as number;
      if (before[slot]?.state !== state) same = false;
      if ((state & 7) >= 3) leftBehind = true;
    }
    const quiet = this.#words[MUTEX_WORD] === 0 && !leftBehind && this.#unrecovered === 0;
    if (!same || quiet) this.#specification.step(this.#slots(), quiet);
  }

  #slots(): SlotView[] {
    const { states, starts, ends, tickets } = this.#table;
    return Array.from({ length: this.#handle.slots }, (_, slot) => {
      const state = states[slot] as number;
      return {
        slot,
        state,
        phase: state & 7,
        kind: (state >> 3) & 7,
        start: starts[slot] as number,
        end: ends[slot] as number,
        ticket: tickets[slot] as number,
        overtaken: 0,
      };
    });
  }

  #hashMemory(mix: (value: number) => void): void {
    for (const word of [MUTEX_WORD, WANTED, DEAD]) mix(this.#words[word] as number);
    for (let slot = 0; slot < this.#handle.slots; slot++) mix(this.#table.states[slot] as number);
    this.#hashPlainMemory(mix);
  }

  /** What only the holder of the mutex touches. What stands in a free slot is not looked at. */
  #hashPlainMemory(mix: (value: number) => void): void {
    const words = this.#words;
    for (let word = TICKET_LOW; word < WANTED; word++) mix(words[word] as number);
    mix(words[HEADER_WORDS] as number);
    const { states, starts, ends, tickets } = this.#table;
    for (let slot = 0; slot < this.#handle.slots; slot++) {
      const state = states[slot] as number;
      mix(ends[slot] as number);
      if ((state & 7) === 0) {
        mix(state);
        continue;
      }
      mix(starts[slot] as number);
      mix(tickets[slot] as number);
      mix(words[this.#bypassAt + slot] as number);
    }
  }
}
