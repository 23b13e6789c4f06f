/**
 * The runner of simulations: a seeded scheduler decides which coroutine goes on next, when an operation takes effect
 * and when it completes, and time passes only when nobody can go on. The same seed replays the same run exactly.
 *
 * An operation takes effect at one moment between its start and its completion, as storage does: another request may
 * see the effect before the completion is known. Now and then a task whose operation has completed is held up, as a
 * thread is that the kernel does not run.
 */
import {
  AssertionError,
  type Clock,
  type Co,
  type Operation,
  Runner,
  SeededRandom,
  type Suspension,
  type Task,
} from "@spindle/base";
import type { Codecs, Environment } from "@spindle/block";
import { EventQueue, type ScheduledEvent } from "./event-queue.ts";

/** Time passes by at least this much, in milliseconds. */
const CLOCK_STEP_MS = 0.001;

export interface SimulationOptions {
  /** The shortest and the longest common latency of an operation, in milliseconds of virtual time. */
  readonly latencyMs?: readonly [number, number];
  /** The probability that an operation takes twenty times as long. */
  readonly slowChance?: number;
  /** The probability that a task is held up although it could go on. */
  readonly stallChance?: number;
  /** More steps than this are taken for an endless loop. */
  readonly stepsMax?: number;
}

/** A coroutine as the report of a deadlock names it. */
interface Spawned {
  readonly name: string;
  suspension: Suspension | undefined;
}

export class SimulatedRunner extends Runner {
  readonly seed: number;
  /** The scheduler's own source; tests draw theirs from another one, so that they do not change the schedule. */
  readonly #random: SeededRandom;
  readonly #latencyMs: readonly [number, number];
  readonly #slowChance: number;
  readonly #stallChance: number;
  readonly #stepsMax: number;
  readonly #events: EventQueue = new EventQueue();
  readonly #alive: Set<Spawned> = new Set();
  #nowMs = 0;
  #steps = 0;
  #spawned = 0;
  #pickedLast = false;
  #fingerprint = 0;

  constructor(seed: number, options: SimulationOptions = {}) {
    super();
    this.seed = seed;
    this.#random = new SeededRandom(seed);
    this.#latencyMs = options.latencyMs ?? [0.01, 1];
    this.#slowChance = options.slowChance ?? 0.05;
    this.#stallChance = options.stallChance ?? 0.1;
    this.#stepsMax = options.stepsMax ?? 20_000_000;
  }

  /** Virtual time, in milliseconds from 0. */
  readonly clock: Clock = { now: () => this.#nowMs };

  /** What a graph needs of its host, all of it virtual. Without codecs compressed data is refused. */
  environment(codecs: Codecs = NO_CODECS): Environment {
    return { clock: this.clock, random: new SeededRandom(this.seed ^ 0x5bd1e995), codecs };
  }

  /** Steps of coroutines so far. */
  get steps(): number {
    return this.#steps;
  }

  /** A number that depends on every decision so far: two runs with the same one went the same way. */
  get fingerprint(): number {
    return this.#fingerprint;
  }

  /** Coroutines that have not ended. */
  get alive(): number {
    return this.#alive.size;
  }

  /**
   * Runs a coroutine to its end, beside those that are already running, and returns its result or throws its error.
   * @throws {AssertionError} for a deadlock, with the coroutines that wait.
   */
  run<T>(co: Co<T>, name?: string): T {
    return this.runAll([co], name)[0] as T;
  }

  /** Runs several side by side to their ends. Throws the first error, after all have ended. */
  runAll<T>(cos: readonly Co<T>[], name?: string): T[] {
    const results: T[] = new Array(cos.length);
    let running = cos.length;
    let failure: { error: unknown } | undefined;
    cos.forEach((co, index) => {
      const settled = (error: unknown, value?: T): void => {
        if (error !== undefined) failure ??= { error };
        results[index] = value as T;
        running -= 1;
      };
      this.spawn(co, settled, name === undefined || cos.length === 1 ? name : `${name} ${index}`);
    });
    this.runUntil(() => running === 0);
    if (failure !== undefined) throw failure.error;
    return results;
  }

  /** Goes on until every coroutine that was ever spawned has ended. */
  drain(): void {
    this.runUntil(() => this.#alive.size === 0);
  }

  /**
   * Goes on until `finished()` holds; it is looked at whenever all coroutines wait. Stopping before the end and never
   * going on is how a crash is simulated.
   */
  runUntil(finished: () => boolean): void {
    for (;;) {
      this.advanceAll();
      if (finished()) return;
      this.#passTime();
    }
  }

  override spawn<T>(co: Co<T>, settled: (error: unknown, value?: T) => void, name?: string): void {
    this.#spawned += 1;
    const spawned: Spawned = { name: name ?? `coroutine ${this.#spawned}`, suspension: undefined };
    this.#alive.add(spawned);
    super.spawn(this.#watched(co, spawned), (error, value?: T) => {
      this.#alive.delete(spawned);
      settled(error, value);
    });
  }

  protected override operate(operation: Operation, task: Task): boolean {
    const latencyMs = this.#latency();
    const effectMs = this.#nowMs + latencyMs * this.#fraction();
    const completeMs = this.#nowMs + latencyMs;
    this.#events.add(effectMs, () => {
      try {
        task.resumeWith = operation.perform();
        task.failed = false;
      } catch (error) {
        task.resumeWith = error;
        task.failed = true;
      }
      this.#events.add(completeMs, () => this.makeRunnable(task));
    });
    return false;
  }

  protected override makeRunnable(task: Task): void {
    if (!this.#random.chance(this.#stallChance)) super.makeRunnable(task);
    else this.#events.add(this.#nowMs + this.#latency(), () => super.makeRunnable(task));
  }

  protected override pick(): Task | undefined {
    const { runnable } = this;
    if (runnable.length === 0) return undefined;
    // Saying that nobody can go on makes the runner look at the conditions between two steps, so that those for whom
    // one has become true may come before those who could go on already.
    this.#pickedLast = !this.#pickedLast || this.#random.chance(0.5);
    if (!this.#pickedLast) return undefined;
    const index = this.#random.below(runnable.length);
    const task = runnable[index] as Task;
    runnable[index] = runnable[runnable.length - 1] as Task;
    runnable.pop();
    this.#note(index);
    return task;
  }

  /** Notes what the coroutine waits for, and counts its steps. */
  #watched<T>(co: Co<T>, spawned: Spawned): Co<T> {
    const step = (resume: () => IteratorResult<Suspension, T>): IteratorResult<Suspension, T> => {
      this.#steps += 1;
      if (this.#steps > this.#stepsMax)
        throw new AssertionError(`seed ${this.seed}: no end after ${this.#stepsMax} steps\n${this.#describeAlive()}`);
      const result = resume();
      spawned.suspension = result.done === true ? undefined : result.value;
      return result;
    };
    return {
      next: (value: unknown) => step(() => co.next(value)),
      throw: (error: unknown) => step(() => co.throw(error)),
      return: (value: T) => co.return(value),
      [Symbol.iterator]() {
        return this;
      },
      [Symbol.dispose]: () => void co.return(undefined as T),
      [Symbol.toStringTag]: "Generator",
    } as Co<T>;
  }

  /** Lets the next event happen, or the next deadline come. */
  #passTime(): void {
    const eventMs = this.#events.nextMs;
    const deadlineMs = this.earliestDeadlineMs();
    if (eventMs === undefined && deadlineMs === undefined) throw this.#deadlock();
    if (eventMs === undefined || (deadlineMs !== undefined && deadlineMs < eventMs)) {
      // A deadline that has come without its condition having become true must not stop the clock.
      this.#nowMs = Math.max(deadlineMs as number, this.#nowMs + CLOCK_STEP_MS);
      return;
    }
    this.#nowMs = Math.max(this.#nowMs, eventMs);
    const event = this.#events.take() as ScheduledEvent;
    this.#note(event.order);
    event.happen();
  }

  #latency(): number {
    const [shortest, longest] = this.#latencyMs;
    const latency = shortest + (longest - shortest) * this.#fraction();
    return this.#random.chance(this.#slowChance) ? latency * 20 : latency;
  }

  #fraction(): number {
    return this.#random.u32() / 2 ** 32;
  }

  #note(decision: number): void {
    this.#fingerprint = (Math.imul(this.#fingerprint ^ decision, 0x01000193) + this.#steps) >>> 0;
  }

  #deadlock(): AssertionError {
    return new AssertionError(
      `seed ${this.seed}: deadlock at ${this.#nowMs.toFixed(3)} ms after ${this.#steps} steps; waiting:\n` +
        this.#describeAlive(),
    );
  }

  #describeAlive(): string {
    return [...this.#alive].map(({ name, suspension }) => `  ${name}: ${describeSuspension(suspension)}`).join("\n");
  }
}

function describeSuspension(suspension: Suspension | undefined): string {
  if (suspension === undefined) return "about to start";
  if (suspension.kind === "operation") return "an operation";
  if (suspension.kind === "join") return `${suspension.children.length} coroutines`;
  return `until ${String(suspension.ready).replace(/\s+/g, " ").slice(0, 200)}`;
}

const NO_CODECS: Codecs = {
  inflateRaw: () => refuse("deflate"),
  deflateRaw: () => refuse("deflate"),
  compressZstd: () => refuse("zstd"),
  decompressZstd: () => refuse("zstd"),
};

function refuse(codec: string): never {
  throw new AssertionError(`this simulation was given no codec for ${codec}: pass codecs to environment()`);
}
