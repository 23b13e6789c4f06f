/**
 * A coroutine that was advanced once outside of a runner and stopped at a suspension: hand this to the runner, which
 * sees the suspension first and then all that follows. Requests that need not wait never come to a runner at all.
 */
import type { Co, Suspension } from "@spindle/base";

export function startedCoroutine<T>(co: Co<T>, suspension: Suspension): Co<T> {
  let first: Suspension | undefined = suspension;
  const started = {
    next(value: unknown): IteratorResult<Suspension, T> {
      if (first === undefined) return co.next(value);
      const step = { done: false as const, value: first };
      first = undefined;
      return step;
    },
    throw: (error: unknown): IteratorResult<Suspension, T> => co.throw(error),
    return: (value: T): IteratorResult<Suspension, T> => co.return(value),
    [Symbol.iterator]: (): Co<T> => started as Co<T>,
  };
  return started as Co<T>;
}
