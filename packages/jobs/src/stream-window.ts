/**
 * The copies of a stream job that are in flight, and those that have to be tried again. Each copy registers its range
 * with the tracker like any other request. Where a guest is writing it does not wait: those clusters are cut out and
 * looked at again a little later, when the guest's write has filled them as a rule.
 */
import { alignDown, alignUp, type Co, isBlockError, until } from "@spindle/base";
import type { BlockNode, TrackedRange } from "@spindle/block";
import { LockKind } from "@spindle/shared-memory";
import type { Copier } from "./copier.ts";
import type { Job } from "./job.ts";
import { attributed } from "./local-copier.ts";

export interface WindowPiece {
  readonly kind: "copy" | "zero";
  readonly start: number;
  readonly end: number;
  /** How often a guest's request was in the way. */
  readonly tries: number;
  /** Not to be tried before this time. */
  readonly dueMs: number;
}

/** After so many tries a copy queues up behind the guest's request instead of passing by. */
const TRIES_MAX = 6;

export interface StreamWindowOptions {
  readonly job: Job;
  readonly top: BlockNode;
  /** Where requests for the top are tracked: the top, or a filter above it. */
  readonly tracked: BlockNode;
  readonly copier: Copier;
  /** Hears of a copy that failed. It is kept, to be tried again, unless `giveUp` is called. */
  readonly failed: (start: number, error: unknown, giveUp: () => void) => void;
}

export class StreamWindow {
  readonly #job: Job;
  readonly #top: BlockNode;
  readonly #tracked: BlockNode;
  readonly #copier: Copier;
  readonly #failed: StreamWindowOptions["failed"];
  readonly #running: Set<WindowPiece> = new Set();
  #retries: WindowPiece[] = [];
  /** Changes whenever a copy ends. */
  #ends = 0;
  #bytesCopied = 0;
  #bytesZero = 0;
  #bytesSkipped = 0;
  #deferred = 0;

  constructor(options: StreamWindowOptions) {
    this.#job = options.job;
    this.#top = options.top;
    this.#tracked = options.tracked;
    this.#copier = options.copier;
    this.#failed = options.failed;
  }

  get full(): boolean {
    return this.#running.size >= this.#copier.capacity;
  }

  /** Nothing is in flight, and nothing waits to be tried again. */
  get empty(): boolean {
    return this.#running.size === 0 && this.#retries.length === 0;
  }

  /** The first byte that is not done, given that everything before `cursor` was started. */
  front(cursor: number): number {
    let front = cursor;
    for (const { start } of this.#running) front = Math.min(front, start);
    for (const { start } of this.#retries) front = Math.min(front, start);
    return front;
  }

  start(piece: WindowPiece): void {
    this.#running.add(piece);
    this.#job.spawn(this.#copy(piece), (error) => {
      this.#running.delete(piece);
      this.#ends += 1;
      if (error === undefined) return;
      this.#retries.push(piece);
      this.#failed(piece.start, error, () => {
        this.#retries = this.#retries.filter((kept) => kept !== piece);
      });
    });
  }

  /** A piece that is to be tried again now. */
  takeRetry(): WindowPiece | undefined {
    const nowMs = this.#job.clock.now();
    const index = this.#retries.findIndex((piece) => piece.dueMs <= nowMs);
    return index < 0 ? undefined : this.#retries.splice(index, 1)[0];
  }

  /** Waits until no copy is in flight. */
  drain(): Co<void> {
    return until(() => this.#running.size === 0);
  }

  /** Waits until a copy ends or a piece is due. */
  *waitForRetryOrEnd(): Co<void> {
    const ends = this.#ends;
    const ended = (): boolean => this.#ends !== ends;
    const dueMs = Math.min(...this.#retries.map((piece) => piece.dueMs));
    const wanted = (): boolean => ended() || this.#job.cancelled || this.#job.pauseRequested;
    if (dueMs === Number.POSITIVE_INFINITY) yield* until(wanted);
    else yield* this.#job.idle(dueMs - this.#job.clock.now(), ended);
  }

  statistics(): Readonly<Record<string, number>> {
    return {
      "bytes-copied": this.#bytesCopied,
      "bytes-zero": this.#bytesZero,
      "bytes-skipped-written": this.#bytesSkipped,
      "ranges-deferred": this.#deferred,
      "copies-in-flight": this.#running.size,
    };
  }

  *#copy(piece: WindowPiece): Co<void> {
    const range = this.#tracked.tryTrack(LockKind.copy, piece.start, piece.end - piece.start);
    if (range !== null) yield* this.#copyHeld(piece, range);
    else if (piece.tries < TRIES_MAX) this.#passBy(piece);
    else yield* this.#copyQueued(piece);
  }

  *#copyQueued(piece: WindowPiece): Co<void> {
    const { start, end } = piece;
    const canceled = (): boolean => this.#job.cancelled || this.#job.pauseRequested;
    let range: TrackedRange;
    try {
      range = yield* this.#tracked.track(LockKind.copy, start, end - start, canceled);
    } catch (error) {
      if (!isBlockError(error, "ECANCELED")) throw error;
      this.#retries.push(piece);
      return;
    }
    yield* this.#copyHeld(piece, range);
  }

  /** Cuts the clusters that are held by others out of a piece: they come later, and the rest at once. */
  #passBy({ kind, start, end, tries }: WindowPiece): void {
    this.#deferred += 1;
    const dueMs = this.#job.clock.now() + 2 ** tries;
    const keep = (from: number, to: number, later: boolean): void => {
      if (from >= to) return;
      this.#retries.push({ kind, start: from, end: to, tries: tries + 1, dueMs: later ? dueMs : 0 });
    };
    const held = this.#heldParts(start, end);
    // Held by nobody means that a guest's request is first in the queue, or that the table is full.
    if (held.length === 0) keep(start, end, true);
    let offset = start;
    for (const range of held) {
      keep(offset, range.start, false);
      keep(Math.max(offset, range.start), range.end, true);
      offset = Math.max(offset, range.end);
    }
    if (held.length > 0) keep(offset, end, false);
  }

  /** What others hold of a range, in order, rounded to clusters. */
  #heldParts(start: number, end: number): { start: number; end: number }[] {
    const unit = this.#top.trackingUnit;
    const held = this.#tracked.tracker?.conflicts(LockKind.copy, start, alignUp(end, unit)) ?? [];
    return held
      .map((range) => ({
        start: Math.max(start, alignDown(range.start, unit)),
        end: Math.min(end, alignUp(Math.min(range.end, end), unit)),
      }))
      .sort((one, other) => one.start - other.start);
  }

  /** The range is ours: what the top has meanwhile is left alone, the rest is filled in. */
  *#copyHeld({ kind, start, end }: WindowPiece, range: TrackedRange): Co<void> {
    const top = this.#top;
    try {
      for (let offset = start; offset < Math.min(end, top.length); ) {
        const status = yield* top.blockStatus(offset, Math.min(end, top.length) - offset);
        if (status.allocated) this.#bytesSkipped += status.length;
        else yield* this.#fill(kind, offset, status.length);
        offset += status.length;
      }
    } finally {
      range.release();
    }
  }

  *#fill(kind: WindowPiece["kind"], offset: number, length: number): Co<void> {
    if (kind === "zero") {
      yield* attributed("write", this.#top.driver.writeZeroes(offset, length, {}));
      this.#bytesZero += length;
      return;
    }
    const { dataBytes, zeroBytes } = yield* this.#copier.copy(offset, length);
    this.#bytesCopied += dataBytes;
    this.#bytesZero += zeroBytes;
  }
}
