import { type Co, perform, SyncRunner } from "@spindle/base";
import { expect, test } from "vitest";
import { startedCoroutine } from "../src/started-coroutine.ts";

function operation<T>(outcome: () => T): Co<T> {
  return perform<T>({ kind: "operation", perform: outcome, start: () => {} });
}

/** Advances a coroutine once by hand and gives the rest to a runner. */
function runStarted<T>(co: Co<T>): T {
  const step = co.next();
  if (step.done === true) throw new Error("it did not wait");
  return new SyncRunner({ now: () => 0 }).run(startedCoroutine(co, step.value));
}

test("a started coroutine is resumed with the value of the suspension it had stopped at, and of those after it", () => {
  const co = (function* (): Co<number[]> {
    const first = yield* operation(() => 1);
    const second = yield* operation(() => first + 1);
    return [first, second];
  })();
  expect(runStarted(co)).toEqual([1, 2]);
});

test("an error of the suspension it had stopped at is thrown into it", () => {
  const failing = operation(() => {
    throw new RangeError("no");
  });
  const co = (function* (): Co<string> {
    try {
      yield* failing;
    } catch (error) {
      return yield* operation(() => String(error));
    }
    return "no error";
  })();
  expect(runStarted(co)).toBe("RangeError: no");
});
