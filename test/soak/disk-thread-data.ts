/** What a thread that uses a disk through a port of its own is told at its start, and what it posts. */
import type { DiskPortHandle } from "@spindle/block";
import type { ThreadTableHandle } from "@spindle/shared-memory";

export interface DiskThreadData {
  readonly threads: ThreadTableHandle;
  readonly port: DiskPortHandle;
  /** The guest's number, and how many there are: they share the disk's sectors out among them. */
  readonly guest: number;
  readonly guests: number;
  readonly seed: number;
  /** A file with what the disk held at first. */
  readonly base: string;
  /** What each sector must hold; see `SectorStates`. */
  readonly states: SharedArrayBuffer;
  /** One word: 1 when the thread is to stop. */
  readonly stop: SharedArrayBuffer;
}

/** Posted at the start. */
export interface DiskThreadStarted {
  /** The thread's index in the table. */
  readonly threadIndex: number;
}

/** Posted at the end. */
export interface GuestReport {
  readonly requests: number;
  readonly sectorsVerified: number;
  readonly sectorsWrong: number;
  /** The first few, in words. */
  readonly wrong: readonly string[];
  /** Requests, or parts of them, that went straight to a descriptor. */
  readonly direct: number;
}
