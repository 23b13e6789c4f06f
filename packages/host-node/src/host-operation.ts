/** Calls of `node:fs` and koffi, in their blocking and their callback form, as one operation for any runner. */
import { type Co, perform } from "@spindle/base";
import { hostError } from "./host-errors.ts";
import type { CallDone, HostCall } from "./linux-calls.ts";

/**
 * Performs one call.
 * @param failed the words for an error, without the reason
 * @throws {BlockError} when the call fails.
 */
export function hostOperation<T>(
  failed: { readonly message: string; readonly operation: string; readonly path?: string },
  sync: () => T,
  start: (done: CallDone<T>) => void,
): Co<T> {
  const { message, ...context } = failed;
  return perform<T>({
    kind: "operation",
    perform() {
      try {
        return sync();
      } catch (error) {
        throw hostError(error, message, context);
      }
    },
    start(settle) {
      start((error, value) => {
        if (error === null || error === undefined) settle(undefined, value);
        else settle(hostError(error, message, context));
      });
    },
  });
}

/** The same for a call through koffi. */
export function linuxOperation<Parameters extends readonly unknown[], T>(
  failed: { readonly message: string; readonly operation: string },
  call: HostCall<Parameters, T>,
  ...parameters: Parameters
): Co<T> {
  return hostOperation<T>(
    failed,
    () => call.sync(...parameters),
    (done) => call.start(done, ...parameters),
  );
}
