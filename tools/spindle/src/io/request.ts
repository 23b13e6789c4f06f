/** What all requests of the shell have in common: how long they take, and the errno of their failure. */
import { type ErrnoName, isBlockError } from "@spindle/base";

/** So short that no rate is infinite. */
const MILLISECONDS_MIN = 1e-6;

/** @returns milliseconds */
export async function timed(request: () => Promise<void>): Promise<number> {
  const start = performance.now();
  await request();
  return Math.max(performance.now() - start, MILLISECONDS_MIN);
}

/** The errno of a failed request; what is no error of the block layer is a bug, and thrown on. */
export function failureCode(error: unknown): ErrnoName {
  if (!isBlockError(error)) throw error;
  return error.code;
}
