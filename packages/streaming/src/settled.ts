/** Promises in coroutines, for the few steps that only an event loop can take. */
import { type Co, perform } from "@spindle/base";

/** Starts something and waits for its promise. @throws what the promise is rejected with. */
export function settled<T>(start: () => Promise<T>): Co<T> {
  return perform<T>({
    kind: "operation",
    perform(): T {
      throw new Error("copy workers are started from an event loop: run the graph's owner with an AsyncRunner");
    },
    start(settle) {
      start().then(
        (value) => settle(undefined, value),
        (error: unknown) => settle(error),
      );
    },
  });
}
