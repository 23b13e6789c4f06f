/** Cuts the source of a conversion into pieces: data, at most one buffer long each, and runs that need not be read. */
import { alignDown, alignUp, type Co, isBlockError, SECTOR_SIZE } from "@spindle/base";
import type { JoinedSource, SourceKind, SourceRun } from "./joined-source.ts";

export interface Piece {
  readonly kind: SourceKind;
  readonly offset: number;
  readonly length: number;
  /** Pieces are numbered in the order of the disk. */
  readonly index: number;
}

export interface PlanOptions {
  /** Bytes of the longest piece of data. */
  readonly pieceBytes: number;
  /** Pieces are whole units but for the last one of the disk: the target's clusters. */
  readonly unit: number;
  /** Everything is stored, and zeros are data. */
  readonly zerosAreData: boolean;
  /** Beyond this length the target's backing file shows zeros; undefined when it has none. */
  readonly backingLength: number | undefined;
  /** Called with a sector that could not be asked for; it counts as data then. Errors end the conversion without it. */
  readonly salvage: ((offset: number, error: Error) => void) | undefined;
}

export class ConvertPlan {
  readonly #source: JoinedSource;
  readonly #options: PlanOptions;
  #offset = 0;
  #index = 0;
  /** The sector that salvage was told of last: others follow it. */
  #toldOf = -1;
  /** The run of the source that was looked at last. */
  #known: { kind: SourceKind; start: number; end: number } = { kind: "zero", start: 0, end: 0 };

  constructor(source: JoinedSource, options: PlanOptions) {
    this.#source = source;
    this.#options = options;
  }

  /** The next piece, or undefined at the end. One call at a time. */
  *next(): Co<Piece | undefined> {
    const offset = this.#offset;
    const { length } = this.#source;
    if (offset >= length) return undefined;
    const { pieceBytes, unit } = this.#options;
    yield* this.#look(offset);
    let { kind, end } = this.#known;
    if (end - offset < unit && end < length) {
      // A unit in which something is data is data.
      kind = "data";
      end = Math.min(offset + unit, length);
    }
    const most = kind === "data" ? Math.min(length, alignDown(offset, pieceBytes) + pieceBytes) : length;
    end = yield* this.#extend(kind, Math.min(end, most), most);
    if (end < length) end -= (end - offset) % unit;
    this.#offset = end;
    this.#index += 1;
    return { kind, offset, length: end - offset, index: this.#index - 1 };
  }

  /** Takes in what follows as long as it is of the same kind. */
  *#extend(kind: SourceKind, from: number, most: number): Co<number> {
    let end = from;
    while (end < most) {
      yield* this.#look(end);
      if (this.#known.kind !== kind) break;
      end = Math.min(this.#known.end, most);
    }
    return end;
  }

  *#look(offset: number): Co<void> {
    if (offset >= this.#known.start && offset < this.#known.end) return;
    const { backingLength, zerosAreData } = this.#options;
    const isBehindBacking = backingLength !== undefined && offset >= backingLength;
    const end = backingLength === undefined || isBehindBacking ? this.#source.length : backingLength;
    const run = yield* this.#status(offset, Math.min(end, this.#source.length) - offset);
    let { kind } = run;
    if (isBehindBacking && kind === "zero") kind = "backing";
    if (zerosAreData && kind === "zero") kind = "data";
    this.#known = { kind, start: offset, end: offset + run.length };
  }

  /** What cannot be asked for is narrowed down to the sector that is at fault. */
  *#status(offset: number, length: number): Co<SourceRun> {
    const { salvage } = this.#options;
    for (let most = length; ; ) {
      try {
        return yield* this.#source.status(offset, most);
      } catch (error) {
        if (salvage === undefined || !isBlockError(error)) throw error;
        if (most > SECTOR_SIZE) {
          most = alignUp(most / 4, SECTOR_SIZE);
          continue;
        }
        if (offset > this.#toldOf) salvage(offset, error);
        this.#toldOf = Math.max(this.#toldOf, offset);
        return { kind: "data", length: most };
      }
    }
  }
}
