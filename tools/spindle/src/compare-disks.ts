/**
 * Compares what two disks show, as `qemu-img compare` does: runs that are zeros in both are not read, one that only one
 * disk has must be zeros, and where one disk is longer the rest must be zeros.
 */
import { isBlockError, MiB, SECTOR_SIZE } from "@spindle/base";
import type { Disk, MapExtent } from "spindle";

export type Comparison =
  | { readonly same: true }
  | { readonly same: false; readonly difference: "size" | "map" | "content"; readonly offset: number };

export interface CompareOptions {
  /** Sizes and maps must be the same, too. */
  readonly strict: boolean;
  /** Called with a sentence that does not decide. */
  readonly warn: (sentence: string) => Promise<void>;
  /** Called with the part that is done, 0 to 1. */
  readonly tell?: (done: number) => void;
}

/** What a disk holds could not be read. */
export class ReadFailure extends Error {}

/** Where a disk's content stands could not be read. */
export class MapFailure extends Error {}

const READ_BYTES: number = 2 * MiB;

/** @throws {ReadFailure | MapFailure} with the whole message. */
export async function compareDisks(one: Disk, other: Disk, options: CompareOptions): Promise<Comparison> {
  if (options.strict && one.length !== other.length) return { same: false, difference: "size", offset: 0 };
  const shorter = Math.min(one.length, other.length);
  const longer = Math.max(one.length, other.length);
  const tell = (offset: number): void => options.tell?.(longer === 0 ? 1 : offset / longer);
  tell(0);
  const common = await compareCommon(new Side(one), new Side(other), { end: shorter, strict: options.strict, tell });
  if (common !== undefined) return common;
  if (shorter === longer) return { same: true };
  await options.warn("Warning: Image size mismatch!");
  const offset = await firstNonZero(new Side(one.length > shorter ? one : other), {
    start: shorter,
    end: longer,
    tell,
  });
  return offset === undefined ? { same: true } : { same: false, difference: "content", offset };
}

interface Common {
  readonly end: number;
  readonly strict: boolean;
  readonly tell: (offset: number) => void;
}

async function compareCommon(one: Side, other: Side, { end, strict, tell }: Common): Promise<Comparison | undefined> {
  for (let offset = 0; offset < end; ) {
    const [left, right] = [await one.runAt(offset), await other.runAt(offset)];
    if (strict && !sameStatus(left, right)) return { same: false, difference: "map", offset };
    let length = Math.min(left.start + left.length, right.start + right.length, end) - offset;
    if (!left.zero || !right.zero) {
      length = Math.min(length, READ_BYTES);
      const at = await compareContent(one, other, { offset, length, left, right });
      if (at !== undefined) return { same: false, difference: "content", offset: at };
    }
    offset += length;
    tell(offset);
  }
  return undefined;
}

/** Where data stands does not matter, but whether it has a place in its file does. */
function sameStatus(left: MapExtent, right: MapExtent): boolean {
  const samePlace = (left.offset === undefined) === (right.offset === undefined);
  return samePlace && left.present === right.present && left.zero === right.zero && left.data === right.data;
}

interface Piece {
  readonly offset: number;
  readonly length: number;
  readonly left: MapExtent;
  readonly right: MapExtent;
}

/** @returns where the first sector stands that differs. */
async function compareContent(one: Side, other: Side, piece: Piece): Promise<number | undefined> {
  const { offset, length, left, right } = piece;
  const mine = left.present ? await one.read(offset, length) : undefined;
  const theirs = right.present ? await other.read(offset, length) : undefined;
  for (let at = 0; at < length; at += SECTOR_SIZE) {
    const end = Math.min(at + SECTOR_SIZE, length);
    if (!sameBytes(mine?.subarray(at, end), theirs?.subarray(at, end))) return offset + at;
  }
  return undefined;
}

const ZEROS: Buffer = Buffer.alloc(SECTOR_SIZE);

/** What was not read is zeros. */
function sameBytes(mine: Uint8Array | undefined, theirs: Uint8Array | undefined): boolean {
  const length = mine?.length ?? theirs?.length ?? 0;
  const zeros = ZEROS.subarray(0, length);
  return Buffer.compare(mine ?? zeros, theirs ?? zeros) === 0;
}

interface Rest {
  readonly start: number;
  readonly end: number;
  readonly tell: (offset: number) => void;
}

async function firstNonZero(side: Side, { start, end, tell }: Rest): Promise<number | undefined> {
  for (let offset = start; offset < end; ) {
    const run = await side.runAt(offset);
    let length = run.start + run.length - offset;
    if (run.present && !run.zero) {
      length = Math.min(length, READ_BYTES);
      const bytes = await side.read(offset, length);
      for (let at = 0; at < length; at += SECTOR_SIZE)
        if (!sameBytes(bytes.subarray(at, Math.min(at + SECTOR_SIZE, length)), undefined)) return offset + at;
    }
    offset += length;
    tell(offset);
  }
  return undefined;
}

/** One disk and its runs, which are asked for in order. */
class Side {
  readonly #disk: Disk;
  readonly #runs: AsyncGenerator<MapExtent, void, void>;
  #run: MapExtent | undefined;

  constructor(disk: Disk) {
    this.#disk = disk;
    this.#runs = disk.map();
  }

  async runAt(offset: number): Promise<MapExtent> {
    while (this.#run === undefined || this.#run.start + this.#run.length <= offset) {
      const next = await this.#explained(
        () => this.#runs.next(),
        (reason) => new MapFailure(`Sector allocation test failed for ${this.#disk.filename}: ${reason}`),
      );
      if (next.done === true) throw new MapFailure(`${this.#disk.filename} has become shorter`);
      this.#run = next.value;
    }
    return this.#run;
  }

  read(offset: number, length: number): Promise<Uint8Array> {
    return this.#explained(
      () => this.#disk.read(offset, length),
      (reason) => new ReadFailure(`Error while reading offset ${offset} of ${this.#disk.filename}: ${reason}`),
    );
  }

  async #explained<T>(action: () => Promise<T>, explain: (reason: string) => Error): Promise<T> {
    try {
      return await action();
    } catch (error) {
      if (!isBlockError(error)) throw error;
      throw explain(error.message);
    }
  }
}
