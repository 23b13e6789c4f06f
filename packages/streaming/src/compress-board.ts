/**
 * The shared memory between a conversion's owner thread and its compressing workers: for each piece in flight its bytes,
 * room for their compressed form, and a state. Whoever finds a piece that nobody has taken takes it; whoever changes a
 * state rings who waits for it.
 */
import { TRANSFER_LEAD_BYTES } from "@spindle/base";
import type { CompressorOptions } from "@spindle/jobs";

export interface CompressBoardHandle extends CompressorOptions {
  readonly memory: SharedArrayBuffer;
  readonly pieces: number;
  readonly workers: number;
}

/** States of a piece; a worker that has taken it puts {@link TAKEN} plus its own number there. */
const IDLE = 0;
const WANTED = 1;
const DONE = 2;
const TAKEN = 3;

/** What stands where a cluster's compressed length would. */
const NOT_WANTED = -1;
const NO_SHORTER = 0;

/** One piece on the board. */
interface Place {
  readonly bytes: Uint8Array;
  readonly packed: Uint8Array;
  readonly lengths: Int32Array;
}

export class CompressBoard {
  readonly handle: CompressBoardHandle;
  /** The stop flag, the workers' indexes in the thread table plus one, and the states. */
  readonly #words: Int32Array;
  readonly #places: readonly Place[];

  static create(options: CompressorOptions, pieces: number, workers: number): CompressBoardHandle {
    const { kind, clusterSize, pieceBytes } = options;
    const words = 1 + workers + pieces * (1 + pieceBytes / clusterSize);
    const memory = new SharedArrayBuffer(
      TRANSFER_LEAD_BYTES + pieces * 2 * pieceBytes + words * Int32Array.BYTES_PER_ELEMENT,
    );
    return { kind, clusterSize, pieceBytes, memory, pieces, workers };
  }

  constructor(handle: CompressBoardHandle) {
    const { memory, pieces, workers, pieceBytes, clusterSize } = handle;
    this.handle = handle;
    const start = TRANSFER_LEAD_BYTES + pieces * 2 * pieceBytes;
    const clusters = pieceBytes / clusterSize;
    this.#words = new Int32Array(memory, start, 1 + workers + pieces);
    const lengthsStart = start + this.#words.byteLength;
    this.#places = Array.from({ length: pieces }, (_, index) => ({
      bytes: new Uint8Array(memory, TRANSFER_LEAD_BYTES + 2 * index * pieceBytes, pieceBytes),
      packed: new Uint8Array(memory, TRANSFER_LEAD_BYTES + (2 * index + 1) * pieceBytes, pieceBytes),
      lengths: new Int32Array(memory, lengthsStart + index * clusters * Int32Array.BYTES_PER_ELEMENT, clusters),
    }));
  }

  get stopped(): boolean {
    return Atomics.load(this.#words, 0) !== 0;
  }
  stop(): void {
    Atomics.store(this.#words, 0, 1);
  }

  /** The worker's index in the thread table; undefined until it is there. */
  threadOf(worker: number): number | undefined {
    const word = Atomics.load(this.#words, 1 + worker);
    return word === 0 ? undefined : word - 1;
  }
  setThread(worker: number, thread: number | undefined): void {
    Atomics.store(this.#words, 1 + worker, thread === undefined ? 0 : thread + 1);
  }

  bytes(piece: number): Uint8Array {
    return this.#place(piece).bytes;
  }

  /** Owner's side: puts a piece up. */
  want(piece: number, clusters: readonly number[]): void {
    const { lengths } = this.#place(piece);
    lengths.fill(NOT_WANTED);
    for (const index of clusters) lengths[index] = NO_SHORTER;
    this.#setState(piece, WANTED);
  }

  /** Owner's side: takes a piece back that no worker has. @returns whether that was so. */
  takeBack(piece: number): boolean {
    return Atomics.compareExchange(this.#words, this.#stateAt(piece), WANTED, IDLE) === WANTED;
  }

  /** Owner's side: puts the pieces up again that a dead worker had. */
  abandon(worker: number): void {
    for (let piece = 0; piece < this.handle.pieces; piece++)
      Atomics.compareExchange(this.#words, this.#stateAt(piece), TAKEN + worker, WANTED);
  }

  isDone(piece: number): boolean {
    return Atomics.load(this.#words, this.#stateAt(piece)) === DONE;
  }

  /** Owner's side: what became of each cluster that was asked for. */
  results(piece: number, clusters: readonly number[]): (Uint8Array | undefined)[] {
    const { lengths, packed } = this.#place(piece);
    const { clusterSize } = this.handle;
    return clusters.map((index) => {
      const length = lengths[index] as number;
      return length === NO_SHORTER ? undefined : packed.subarray(index * clusterSize, index * clusterSize + length);
    });
  }

  get hasWanted(): boolean {
    for (let piece = 0; piece < this.handle.pieces; piece++)
      if (Atomics.load(this.#words, this.#stateAt(piece)) === WANTED) return true;
    return false;
  }

  /** Worker's side: takes a piece. @returns its number, or undefined when there is none. */
  take(worker: number): number | undefined {
    for (let piece = 0; piece < this.handle.pieces; piece++)
      if (Atomics.compareExchange(this.#words, this.#stateAt(piece), WANTED, TAKEN + worker) === WANTED) return piece;
    return undefined;
  }

  /** Worker's side: compresses what is wanted of a piece, and says that it is done. */
  finish(piece: number, pack: (cluster: Uint8Array) => Uint8Array | undefined): void {
    const { bytes, packed, lengths } = this.#place(piece);
    const { clusterSize } = this.handle;
    for (let index = 0; index < lengths.length; index++) {
      if (lengths[index] === NOT_WANTED) continue;
      const start = index * clusterSize;
      const data = pack(bytes.subarray(start, start + clusterSize));
      if (data !== undefined) packed.set(data, start);
      lengths[index] = data?.length ?? NO_SHORTER;
    }
    this.#setState(piece, DONE);
  }

  #place(piece: number): Place {
    return this.#places[piece] as Place;
  }
  #stateAt(piece: number): number {
    return 1 + this.handle.workers + piece;
  }
  #setState(piece: number, state: number): void {
    Atomics.store(this.#words, this.#stateAt(piece), state);
  }
}
