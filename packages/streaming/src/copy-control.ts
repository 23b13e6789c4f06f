/** The control plane between a stream job and a copy worker: what is said once a job, through comlink. */
import type { SharedDescription } from "@spindle/block";
import type { ThreadTableHandle } from "@spindle/shared-memory";
import type { CopyChannelHandle } from "./copy-channel.ts";

export interface CopyWorkerOptions {
  readonly chain: SharedDescription;
  readonly targetDescriptor: number;
  readonly clusterSize: number;
  /** Bytes. */
  readonly copyBytesMax: number;
  readonly channel: CopyChannelHandle;
  readonly threads: ThreadTableHandle;
  /** The owner's index in the thread table. */
  readonly ownerThread: number;
}

export interface CopyControl {
  /** Answers as soon as the worker can hear. */
  ready(): void;
  /**
   * Opens the chain.
   * @returns the worker's index in the thread table.
   * @throws {Error} when it cannot be opened on this thread.
   */
  open(options: CopyWorkerOptions): number;
  /** Copies until the channel is stopped. The worker hears nothing else meanwhile. */
  serve(): void;
  /** Closes the chain and ends the worker's task. */
  close(): void;
}
