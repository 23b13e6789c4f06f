/** Calls of `node:fs` and koffi, in their blocking and their callback form, as one operation for any runner. */
import { type Co, perform } from "@spindle/base";
import { hostError } from "./host-errors.ts";
import type { CallDone, HostCall } from "./linux-calls.ts";

/** What is being done, for an error's message and context. */
export interface Attempt {
  /** What could not be done, without the reason, such as `Could not open 'disk.img'`. */
  readonly message: string;
  readonly operation: string;
  readonly path?: string;
}

/**
 * Makes one short call that needs no suspension.
 * @throws {BlockError} when it fails.
 */
export function hostSync<T>({ message, ...context }: Attempt, call: () => T): T {
  try {
    return call();
  } catch (error) {
    throw hostError(error, message, context);
  }
}

/**
 * Makes one call that may take long.
 * @throws {BlockError} when it fails.
 */
export function hostOperation<T>(attempt: Attempt, sync: () => T, start: (done: CallDone<T>) => void): Co<T> {
  return perform<T>({
    kind: "operation",
    perform: () => hostSync(attempt, sync),
    start(settle) {
      const { message, ...context } = attempt;
      start((error, value) => {
        if (error === null || error === undefined) settle(undefined, value);
        else settle(hostError(error, message, context));
      });
    },
  });
}

/** The same for a call through koffi. */
export function linuxOperation<Parameters extends readonly unknown[], T>(
  attempt: Attempt,
  call: HostCall<Parameters, T>,
  ...parameters: Parameters
): Co<T> {
  return hostOperation<T>(
    attempt,
    () => call.sync(...parameters),
    (done) => call.start(done, ...parameters),
  );
}
