/**
 * Walks the top's disk from its start and says, piece by piece, what has to be done: nothing, copy, or store zeros.
 * Pieces are whole clusters of the top. What it says may be outdated when it is acted on: whoever acts looks again under
 * the lock.
 */
import { alignDown, alignUp, type Co } from "@spindle/base";
import { type BlockNode, type ChainExtent, chainStatus } from "@spindle/block";

/** `skip`: the top has it, or the base shows it; `zero`: zeros that have to be stored; `copy`: the rest. */
export type PieceKind = "skip" | "copy" | "zero";

export interface Piece {
  readonly kind: PieceKind;
  readonly start: number;
  readonly end: number;
}

/** The longest range that one look at the maps covers: the walk must not hold up the thread. */
const SCAN_BYTES_MAX = 2 ** 30;

/** Zeros are stored in pieces of this size, for the same reason. */
const ZERO_BYTES_MAX = 2 ** 28;

export interface ChunkPlannerOptions {
  readonly top: BlockNode;
  /** The link at which the chain stops being looked at; null to look at all of it. */
  readonly stop: BlockNode | null;
  /** The longest copy in bytes; rounded up to clusters. */
  readonly chunk: number;
}

export class ChunkPlanner {
  readonly #top: BlockNode;
  readonly #stop: BlockNode | null;
  readonly #unit: number;
  readonly #chunk: number;
  #cursor = 0;
  #scan: number;
  #ahead: Piece | undefined;
  #bytesPresent = 0;
  #bytesEmpty = 0;

  constructor(options: ChunkPlannerOptions) {
    this.#top = options.top;
    this.#stop = options.stop;
    this.#unit = options.top.trackingUnit;
    this.#chunk = alignUp(options.chunk, this.#unit);
    this.#scan = this.#chunk;
  }

  /** Everything before this byte has been handed out. */
  get cursor(): number {
    return this.#ahead?.start ?? this.#cursor;
  }

  /**
   * The next piece; undefined at the end of the disk as it is now.
   * @param copyBytesMax the longest copy that is wanted now, in bytes; at least one cluster is handed out.
   * @throws {BlockError} when a map cannot be read; the next call tries again.
   */
  *next(copyBytesMax: number): Co<Piece | undefined> {
    const first = yield* this.#take();
    if (first?.kind !== "copy") return first;
    const limit = this.#copyEnd(first.start, copyBytesMax);
    let end = first.end;
    // Data in small pieces, as in a file with holes, is still copied in long ones.
    while (end < limit) {
      const following = yield* this.#takeAfter({ kind: "copy", start: first.start, end });
      if (following?.kind !== "copy") {
        this.#ahead = following;
        break;
      }
      end = following.end;
    }
    if (end <= limit) return { kind: "copy", start: first.start, end };
    this.#ahead = { kind: "copy", start: limit, end };
    return { kind: "copy", start: first.start, end: limit };
  }

  statistics(): Readonly<Record<string, number>> {
    return { "bytes-present": this.#bytesPresent, "bytes-empty": this.#bytesEmpty };
  }

  /** Goes on behind the place that cannot be read. */
  skipChunk(): void {
    this.#ahead = undefined;
    this.#cursor = this.#copyEnd(this.#cursor, this.#chunk);
  }

  /** Copies end at multiples of the chunk, and never inside of a cluster. */
  #copyEnd(start: number, copyBytesMax: number): number {
    const atChunk = alignDown(start, this.#chunk) + this.#chunk;
    const wanted = start + Math.max(this.#unit, alignDown(Math.min(copyBytesMax, this.#chunk), this.#unit));
    return Math.min(atChunk, wanted, Math.max(start, this.#top.length));
  }

  *#take(): Co<Piece | undefined> {
    const ahead = this.#ahead;
    this.#ahead = undefined;
    return ahead ?? (yield* this.#look());
  }

  /** The next piece; when it cannot be looked at, the one in hand is handed out by the next call. */
  *#takeAfter(inHand: Piece): Co<Piece | undefined> {
    try {
      return yield* this.#take();
    } catch (error) {
      this.#ahead = inHand;
      throw error;
    }
  }

  /** The run of whole clusters at the cursor that are all of one kind. */
  *#look(): Co<Piece | undefined> {
    const start = this.#cursor;
    const { length } = this.#top;
    if (start >= length) return undefined;
    const wanted = Math.min(this.#scan, length - start);
    const run = yield* chainStatus(this.#top, this.#stop, start, wanted);
    const runEnd = start + run.length;
    // A run as long as the question asks for a longer question; a short one for a short question, so that looking at
    // a finely divided image does not cost the square of its length.
    this.#scan = run.length === wanted ? Math.min(this.#scan * 2, SCAN_BYTES_MAX) : this.#chunk;
    const wholeEnd = runEnd === length ? length : alignDown(runEnd, this.#unit);
    const kind = this.#kindOf(run);
    if (wholeEnd <= start) return yield* this.#lookAtMixed(start, run);
    const end = kind === "zero" ? Math.min(wholeEnd, start + Math.max(this.#unit, ZERO_BYTES_MAX)) : wholeEnd;
    this.#cursor = end;
    if (kind === "skip" && run.depth === 0) this.#bytesPresent += end - start;
    else if (kind === "skip") this.#bytesEmpty += end - start;
    return { kind, start, end };
  }

  /** One cluster of which parts are of different kinds, or stand in different layers. */
  *#lookAtMixed(start: number, first: ChainExtent): Co<Piece> {
    const end = Math.min(start + this.#unit, this.#top.length);
    let kind = this.#kindOf(first);
    for (let offset = start + first.length; offset < end; ) {
      const run = yield* chainStatus(this.#top, this.#stop, offset, end - offset);
      if (this.#kindOf(run) !== kind) kind = "copy";
      offset += run.length;
    }
    this.#cursor = end;
    return { kind, start, end };
  }

  #kindOf(run: ChainExtent): PieceKind {
    if (run.depth === 0 && run.allocated) return "skip";
    if (!run.allocated) return "skip";
    // Without a base, what nobody stores reads as zeros once the chain below is gone.
    if (run.zero && !run.data) return this.#stop === null ? "skip" : "zero";
    return "copy";
  }
}
