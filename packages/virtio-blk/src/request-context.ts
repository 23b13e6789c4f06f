/** What the device asks, request by request, about the driver and the host: who they are is not its business. */
import type { ErrorAction, IoErrorReport } from "./io-error.ts";

export interface RequestContext {
  /** Whether the driver negotiated discards, and zeroes. */
  readonly discard: boolean;
  readonly writeZeroes: boolean;
  /** Whether a write that is submitted now has to be durable when it completes. */
  readonly writesDurable: boolean;
  /** Tells the host of an error of the disk. @returns what is to be done about it. */
  failed(error: Omit<IoErrorReport, "queue" | "missed" | "nospace" | "action">): ErrorAction;
  /** Whether requests wait for the host to resume the device. */
  readonly stopped: boolean;
  /** Whether nobody here will resume this request: the queue was reset, or its server ends. */
  readonly abandoned: boolean;
  /** Whether whoever serves the queue next does again what is abandoned. */
  readonly resumable: boolean;
}
