/**
 * Generator coroutines: the block layer is written once as `Co` functions, and a runner decides what a wait means.
 * A coroutine that can go on without waiting does not yield.
 */

/** A computation that may wait. Call one from another with `yield*`. */
export type Co<T> = Generator<Suspension, T, unknown>;

/** Ends a started operation: with an error, or with `undefined` and the value. Called once. */
export type Settle = (error: unknown, value?: unknown) => void;

/** Something the host does: a read, a flush, a fetch. */
export interface Operation {
  readonly kind: "operation";
  /** Does it here and now, blocking this thread. Only for threads that may block. */
  perform(): unknown;
  /** Starts it and returns; `settle` is called later, never before `start` has returned. */
  start(settle: Settle): void;
}

/**
 * Something that another coroutine or thread makes true: a lock granted, a reply in a ring, or the time. Whoever makes
 * it true from another thread rings this thread's doorbell afterwards.
 */
export interface Condition {
  readonly kind: "condition";
  /** Cheap, without side effects, and true for good once it was true. */
  ready(): boolean;
  /** The runner looks again at this time (of its clock, in milliseconds) even when no doorbell rings. */
  readonly deadlineMs?: number;
}

/** Several coroutines to run side by side; resumes when all have ended, with the first error if there was one. */
export interface Join {
  readonly kind: "join";
  readonly children: readonly Co<unknown>[];
}

export type Suspension = Operation | Condition | Join;

/** Time as it is handed in: milliseconds from an arbitrary start, monotonic, with fractions. */
export interface Clock {
  now(): number;
}

/** Performs one host operation and returns what it gives. */
export function* perform<T>(operation: Operation & { perform(): T }): Co<T> {
  return (yield operation) as T;
}

/** Waits until `ready()` holds. Does not yield when it already does. */
export function* until(ready: () => boolean): Co<void> {
  if (!ready()) yield { kind: "condition", ready };
}

/** Waits for `durationMs`, or less when `interrupted` becomes true. */
export function* sleep(clock: Clock, durationMs: number, interrupted?: () => boolean): Co<void> {
  const deadlineMs = clock.now() + durationMs;
  const ready = (): boolean => clock.now() >= deadlineMs || interrupted?.() === true;
  if (!ready()) yield { kind: "condition", ready, deadlineMs };
}

/** Runs coroutines side by side and returns their results in order. Waits for all even when one fails. */
export function* join<T>(children: readonly Co<T>[]): Co<T[]> {
  if (children.length === 0) return [];
  if (children.length === 1) return [yield* children[0] as Co<T>];
  return (yield { kind: "join", children }) as T[];
}
