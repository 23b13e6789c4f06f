/** What the programs tell the shell. docs/errors.md lists them. */

export const EXIT_OK = 0;
/** The command failed, or was not understood. */
export const EXIT_FAILURE = 1;
/** `compare`: the contents differ, an image could not be opened, a map or the data could not be read. */
export const EXIT_DIFFERENT = 1;
export const EXIT_COMPARE_OPEN = 2;
export const EXIT_COMPARE_MAP = 3;
export const EXIT_COMPARE_READ = 4;
/** `check`: the image is corrupt, it is sound but has leaked clusters, its format cannot be checked. */
export const EXIT_CHECK_CORRUPT = 2;
export const EXIT_CHECK_LEAKS = 3;
export const EXIT_CHECK_UNSUPPORTED = 63;
/** A bug of this program. */
export const EXIT_BUG = 70;

/** As a shell reports a program that a signal has ended. */
const SIGNAL_BASE = 128;
const SIGNAL_NUMBERS = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 } as const;

export type EndingSignal = keyof typeof SIGNAL_NUMBERS;

export const ENDING_SIGNALS = Object.keys(SIGNAL_NUMBERS) as readonly EndingSignal[];

export function signalExitCode(signal: EndingSignal): number {
  return SIGNAL_BASE + SIGNAL_NUMBERS[signal];
}
