/** The production source of the range lock as classes whose methods stop before every step that other threads can see. */
import { assert, BlockError } from "@spindle/base";
import { type Edit, evaluate, intoSteps, readSource } from "./rewrite-source.ts";

export type Step = readonly unknown[];
export interface Condition {
  readonly kind: "condition";
  ready(): boolean;
}
export type Stepper<T> = Generator<Step | Condition | Stepper<unknown>, T, unknown>;

/** The lock after rewriting: every method stops before each visible operation. */
export interface SteppedLock {
  acquire(kind: number, start: number, end: number, canceled?: () => boolean): Stepper<number>;
  tryAcquire(kind: number, start: number, end: number): Stepper<number>;
  release(token: number): Stepper<void>;
  ticket(): Stepper<number>;
  oldestTicket(): Stepper<number>;
  recover(thread: number): Stepper<number>;
}

export interface SlotArrays {
  readonly states: Int32Array;
  readonly starts: Float64Array;
  readonly ends: Float64Array;
  readonly tickets: Float64Array;
}

/** The classes of one edit of the source. */
export interface Build {
  readonly RangeLock: {
    create(options: { slots: number }): { memory: SharedArrayBuffer; slots: number };
    new (handle: unknown, thread: unknown): SteppedLock;
  };
  readonly SlotTable: new (memory: SharedArrayBuffer, slots: number) => SlotArrays;
  readonly bypassLimit: number;
  readonly hooks: Hooks;
}

/** Where the stepped code reports to the world that runs it. */
interface Hooks {
  rings(): Int32Array;
  fresh(): true;
}

const FILES = ["lock-kind.ts", "slot-state.ts", "mutex.ts", "slot-table.ts", "range-lock.ts"];

export interface Limits {
  /** How long a thread looks for the mutex: not at all, or, which leaves less to explore, until it is free. */
  readonly patient?: boolean;
  /** How often a waiting copy is overtaken. */
  readonly bypass?: number;
}

/** Makes the stepped classes, with a deliberate mistake or without. */
export function build(mutation: readonly Edit[] = [], limits: Limits = {}): Build {
  const bypassLimit = limits.bypass ?? 16;
  const source = readSource(FILES, [
    ...mutation,
    {
      from: "for (let round = 0; round < SPIN_LIMIT; round++) {",
      to: limits.patient === true ? "for (;;) { Atomics.await(this.#words, this.#word);" : "for (const never of []) {",
    },
    { from: "rings = new Int32Array(2);", to: "rings = rings();" },
    // Explorations have four threads at most.
    { from: "const ALL_THREADS = -1;", to: "const ALL_THREADS = 15;" },
    { from: "const RECOVERY_LIMIT = 50_000;", to: "const RECOVERY_LIMIT = 1;" },
    { from: "const BYPASS_LIMIT = 16;", to: `const BYPASS_LIMIT = ${bypassLimit};` },
  ]);
  const statistics = source.slice(source.indexOf("  statistics() {"), source.indexOf("  *#placeLater("));
  const steps = {
    "this.#thread.table.ring(": "ring",
    "thread.snapshot(": "snapshot",
  };
  const code = intoSteps(
    source.replace(statistics, () => ""),
    steps,
  );
  const hooks: Hooks = { rings: () => new Int32Array(2), fresh: () => true };
  const rings = (): Int32Array => hooks.rings();
  const fresh = (): true => hooks.fresh();
  const classes = evaluate(code, ["RangeLock", "SlotTable"], { assert, BlockError, rings, fresh });
  return { ...(classes as unknown as Omit<Build, "bypassLimit" | "hooks">), bypassLimit, hooks };
}
