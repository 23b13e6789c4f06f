/**
 * Between the stream job, which knows what to copy, and whoever moves the bytes: this thread (local-copier.ts) or a pool
 * of worker threads (the package `streaming`).
 */
import type { Co } from "@spindle/base";
import type { BlockNode } from "@spindle/block";

/** What became of one copy, in bytes. */
export interface CopyOutcome {
  /** Stored in the top. */
  readonly dataBytes: number;
  /** Found to be all zeros, and not stored. */
  readonly zeroBytes: number;
}

export interface Copier {
  /** How many copies may be in flight now; at least 1. It may change with every copy that ends. */
  readonly capacity: number;
  /**
   * Copies a range from the chain below the top into the top. The range is a multiple of clusters, or ends at the end of
   * the disk; the top has none of it allocated; the caller holds it in the top's tracker until this returns.
   * @throws {BlockError} whose `context.operation` is `read` when the chain refused, and `write` when the top did. The
   *   range is then unallocated as before, or in parts copied.
   */
  copy(offset: number, length: number): Co<CopyOutcome>;
  /** Gives up threads and memory. No copy is in flight. */
  close(): Co<void>;
  /** Counters and sizes for people. */
  statistics(): Readonly<Record<string, number | string>>;
}

export interface CopierOptions {
  readonly top: BlockNode;
  /**
   * What becomes of clusters that are all zeros. `leave` them unallocated when the whole chain is streamed: they read as
   * zeros once nothing is below. `store` them as zero clusters when a base remains that would show through.
   */
  readonly zeroClusters: "leave" | "store";
  /** The most copies in flight, or on each thread; undefined to find out. */
  readonly depth?: number;
  /** The longest copy that will be asked for, in bytes. */
  readonly chunk: number;
}

/** Makes the copier of one stream job. */
export type CreateCopier = (options: CopierOptions) => Co<Copier>;
