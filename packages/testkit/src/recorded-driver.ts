/** A file in memory that records, in order, what would reach a disk: the raw material of crash states. */
import type { Co } from "@spindle/base";
import type { IoVector } from "@spindle/block";
import { MemoryDriver, type MemoryDriverOptions } from "./memory-driver.ts";
import type { SparseBytes } from "./sparse-bytes.ts";
import { Timeline } from "./timeline.ts";

export type StorageChange =
  | { readonly kind: "write"; readonly offset: number; readonly bytes: Uint8Array }
  | { readonly kind: "zero"; readonly offset: number; readonly length: number }
  | { readonly kind: "truncate"; readonly length: number }
  | { readonly kind: "flush" };

/** One request to the storage. Times are those of the log's timeline. */
export interface LogEntry {
  readonly change: StorageChange;
  readonly issued: number;
  /** Infinity while it is in flight, and for what has failed. */
  completed: number;
}

/** Everything that was asked of one file since the beginning. */
export interface WriteLog {
  /** What the file held at the beginning. */
  readonly base: SparseBytes;
  /** In the order of issue. */
  readonly entries: readonly LogEntry[];
  readonly timeline: Timeline;
}

export class RecordedDriver extends MemoryDriver {
  readonly log: WriteLog;
  readonly #entries: LogEntry[] = [];

  /** @param timeline shared with other recorders of the same run */
  constructor(
    content: SparseBytes | Uint8Array | number = 0,
    timeline: Timeline = new Timeline(),
    options: MemoryDriverOptions = {},
  ) {
    super(content, options);
    this.log = { base: this.content.clone(), entries: this.#entries, timeline };
  }

  override *write(offset: number, vector: IoVector): Co<void> {
    const bytes = new Uint8Array(vector.length);
    vector.copyTo(bytes);
    yield* this.#record({ kind: "write", offset, bytes }, super.write(offset, vector));
  }

  override *writeZeroes(offset: number, length: number): Co<void> {
    yield* this.#record({ kind: "zero", offset, length }, super.writeZeroes(offset, length));
  }

  override *discard(offset: number, length: number): Co<void> {
    const inside = Math.min(length, Math.max(0, this.length() - offset));
    yield* this.#record({ kind: "zero", offset, length: inside }, super.discard(offset, length));
  }

  override *truncate(length: number): Co<void> {
    yield* this.#record({ kind: "truncate", length }, super.truncate(length));
  }

  override *flush(): Co<void> {
    yield* this.#record({ kind: "flush" }, super.flush());
  }

  *#record(change: StorageChange, request: Co<void>): Co<void> {
    const entry: LogEntry = { change, issued: this.log.timeline.next(), completed: Number.POSITIVE_INFINITY };
    this.#entries.push(entry);
    yield* request;
    entry.completed = this.log.timeline.next();
  }
}
