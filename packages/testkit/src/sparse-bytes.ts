/**
 * A sparse array of bytes: the storage below the memory driver and below crash states. Copies share their chunks until
 * one of them is written, so that hundreds of states of one image cost little.
 */
import { assert } from "@spindle/base";

/** The unit in which space is taken and given back, as a file system has it. */
export const CHUNK_SIZE = 4096;

export class SparseBytes {
  #length: number;
  #chunks: Map<number, Uint8Array> = new Map();
  /** Chunks that no copy shares and that may be written in place. */
  #owned: Set<number> = new Set();

  constructor(length = 0) {
    this.#length = length;
  }

  static of(bytes: Uint8Array): SparseBytes {
    const sparse = new SparseBytes(bytes.length);
    sparse.write(0, bytes);
    return sparse;
  }

  /** Bytes, holes included. */
  get length(): number {
    return this.#length;
  }

  /** Bytes that take up memory. */
  get allocated(): number {
    return this.#chunks.size * CHUNK_SIZE;
  }

  /** A copy that shares memory until one of the two changes. */
  clone(): SparseBytes {
    const copy = new SparseBytes(this.#length);
    copy.#chunks = new Map(this.#chunks);
    this.#owned.clear();
    return copy;
  }

  /** What is beyond the end reads as zeros. */
  read(offset: number, target: Uint8Array): void {
    for (const piece of pieces(offset, target.length)) {
      const part = target.subarray(piece.position, piece.position + piece.length);
      const chunk = this.#chunks.get(piece.index);
      if (chunk === undefined) part.fill(0);
      else part.set(chunk.subarray(piece.start, piece.start + piece.length));
    }
  }

  /** Grows when it goes beyond the end. */
  write(offset: number, source: Uint8Array): void {
    for (const piece of pieces(offset, source.length)) {
      const part = source.subarray(piece.position, piece.position + piece.length);
      this.#writable(piece.index).set(part, piece.start);
    }
    this.#length = Math.max(this.#length, offset + source.length);
  }

  /** Makes a range read as zeros, gives whole chunks back, and grows when it goes beyond the end. */
  zero(offset: number, length: number): void {
    this.#clear(offset, Math.min(length, Math.max(0, this.#length - offset)));
    this.#length = Math.max(this.#length, offset + length);
  }

  truncate(length: number): void {
    if (length < this.#length) this.#clear(length, this.#length - length);
    this.#length = length;
  }

  /** How far the run of data, or of holes, at `offset` reaches; at most `length`. */
  run(offset: number, length: number): { readonly data: boolean; readonly length: number } {
    assert(length > 0, "the run of nothing");
    const data = this.#chunks.has(Math.floor(offset / CHUNK_SIZE));
    let end = offset - (offset % CHUNK_SIZE) + CHUNK_SIZE;
    while (end < offset + length && this.#chunks.has(end / CHUNK_SIZE) === data) end += CHUNK_SIZE;
    return { data, length: Math.min(end, offset + length) - offset };
  }

  /** All bytes in one piece, for comparing and for writing to a file. */
  toBytes(): Uint8Array {
    const bytes = new Uint8Array(this.#length);
    this.read(0, bytes);
    return bytes;
  }

  /** The same for the same content: holes and chunks of zeros count alike. */
  contentHash(): string {
    let low = this.#length >>> 0;
    let high = Math.floor(this.#length / 2 ** 32);
    for (const index of [...this.#chunks.keys()].sort((a, b) => a - b)) {
      const chunk = this.#chunks.get(index) as Uint8Array;
      const hash = chunkHash(chunk);
      if (hash.isZero) continue;
      low = mix(mix(low, index), hash.low);
      high = mix(mix(high, hash.high), index);
    }
    return `${(high >>> 0).toString(16).padStart(8, "0")}${(low >>> 0).toString(16).padStart(8, "0")}`;
  }

  #clear(offset: number, length: number): void {
    for (const piece of pieces(offset, length)) {
      if (!this.#chunks.has(piece.index)) continue;
      const lastByte = piece.index * CHUNK_SIZE + piece.start + piece.length;
      if (piece.start === 0 && (piece.length === CHUNK_SIZE || lastByte === this.#length)) {
        this.#chunks.delete(piece.index);
        this.#owned.delete(piece.index);
      } else this.#writable(piece.index).fill(0, piece.start, piece.start + piece.length);
    }
  }

  #writable(index: number): Uint8Array {
    let chunk = this.#chunks.get(index);
    if (chunk !== undefined && this.#owned.has(index)) {
      hashes.delete(chunk);
      return chunk;
    }
    chunk = chunk === undefined ? new Uint8Array(CHUNK_SIZE) : chunk.slice();
    this.#chunks.set(index, chunk);
    this.#owned.add(index);
    return chunk;
  }
}

interface Piece {
  readonly index: number;
  /** Where the piece begins in its chunk. */
  readonly start: number;
  readonly length: number;
  /** Where the piece begins in the caller's buffer. */
  readonly position: number;
}

function* pieces(offset: number, length: number): Generator<Piece> {
  let position = 0;
  while (position < length) {
    const start = (offset + position) % CHUNK_SIZE;
    const take = Math.min(CHUNK_SIZE - start, length - position);
    yield { index: (offset + position - start) / CHUNK_SIZE, start, length: take, position };
    position += take;
  }
}

interface ChunkHash {
  readonly low: number;
  readonly high: number;
  readonly isZero: boolean;
}

/** Hashes of chunks as they are now; writing a chunk removes its entry. */
const hashes: WeakMap<Uint8Array, ChunkHash> = new WeakMap();

function chunkHash(chunk: Uint8Array): ChunkHash {
  const known = hashes.get(chunk);
  if (known !== undefined) return known;
  let low = 0x811c9dc5;
  let high = 0x9e3779b9;
  let any = 0;
  for (const word of new Uint32Array(chunk.buffer, chunk.byteOffset, CHUNK_SIZE / 4)) {
    any |= word;
    low = mix(low, word);
    high = mix(high, word ^ 0x5bd1e995);
  }
  const hash = { low, high, isZero: any === 0 };
  hashes.set(chunk, hash);
  return hash;
}

/** One round of MurmurHash3's 32-bit mixing. */
function mix(state: number, word: number): number {
  let k = Math.imul(word, 0xcc9e2d51);
  k = Math.imul((k << 15) | (k >>> 17), 0x1b873593);
  const h = state ^ k;
  return (Math.imul((h << 13) | (h >>> 19), 5) + 0xe6546b64) | 0;
}
