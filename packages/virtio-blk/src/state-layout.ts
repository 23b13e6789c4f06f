/** How the shared memory of a device is laid out: words, the configuration space, the queues, the reports of errors. */
import { IoErrorRing } from "./io-error.ts";
import { QUEUE_STATE_WORDS } from "./queue-state.ts";

const GLOBAL_WORDS = 16;
/** The configuration space stands twice: readers use one copy while the other is changed. */
export const CONFIG_COPY_BYTES = 64;
export const QUEUES_WORD: number = GLOBAL_WORDS + (2 * CONFIG_COPY_BYTES) / 4;

/** Where the configuration space begins, in bytes. */
export const CONFIG_START: number = GLOBAL_WORDS * 4;

/** Where the first queue's reports of errors begin, in bytes. */
export function errorRingStart(queueCount: number): number {
  return 4 * (QUEUES_WORD + queueCount * QUEUE_STATE_WORDS);
}

/** Bytes of the whole state. */
export function stateBytes(queueCount: number): number {
  return errorRingStart(queueCount) + queueCount * IoErrorRing.BYTES;
}
