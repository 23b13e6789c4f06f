/**
 * Copies what disks show into an image: what `qemu-img convert` does. Several coroutines take pieces in the order of the
 * disk, read them side by side, and write them one behind the other, so that a target is laid out in order; or side by side, where
 * that does not matter.
 */
import {
  alignUp,
  BlockError,
  type Co,
  CoMutex,
  errnoText,
  isBlockError,
  join,
  KiB,
  MiB,
  SECTOR_SIZE,
  sleep,
  transferBytes,
} from "@spindle/base";
import { type BlockNode, backingOf, type Environment, IoVector, type WriteFlags } from "@spindle/block";
import { RateLimit } from "../rate-limit.ts";
import type { Compressor, CreateCompressor, PieceCompressor } from "./compressor.ts";
import { ConvertPlan, type Piece } from "./convert-plan.ts";
import { JoinedSource } from "./joined-source.ts";
import { sparseRuns } from "./sparse-runs.ts";
import { type Write, WriteOrder } from "./write-order.ts";

/** Bytes of one read, and of one write where nothing is zeros; as in QEMU, because runs of zeros are counted inside of them. */
const PIECE_BYTES: number = 2 * MiB;
/** The same for compressed targets: short enough for every thread to have one. */
const COMPRESSED_PIECE_BYTES: number = 512 * KiB;

export interface ConvertRequest {
  /** One behind the other; opened read-only. */
  readonly sources: readonly BlockNode[];
  /** At least as long as the sources together. Nobody else uses it. */
  readonly target: BlockNode;
  /** The target reads as zeros where nothing was written. */
  readonly targetIsZero: boolean;
  /** The part of the sources that is copied, to the start of the target; all of it when absent. */
  readonly window?: { readonly start: number; readonly length: number };
  /**
   * What the sources leave to this image of their chain, and to what is below it, the target shows already; their own
   * backing files, when it is `backing`.
   */
  readonly leftTo?: BlockNode | "backing";
  /** The length of the target's backing file: beyond it the target shows zeros. */
  readonly backingLength?: number;
  /** Makes what compresses; the target's clusters are compressed then. */
  readonly createCompressor?: CreateCompressor;
  /**
   * Data that turns out to be zeros of at least so many bytes is not stored; 0 stores everything, also what the map tells to
   * be zeros. A multiple of 512. Data is not looked at when absent.
   */
  readonly sparseBytes?: number;
  /** Pieces are written one behind the other. */
  readonly inOrder: boolean;
  /** Pieces that are read or written side by side. */
  readonly depth: number;
  /** Bytes per second; 0 for no limit. */
  readonly speed: number;
  /** With `fua`, every write is durable when it ends; with `mayUnmap`, the target keeps no space for zeros. */
  readonly flags: Pick<WriteFlags, "fua" | "mayUnmap">;
  /** Called with what cannot be read, which becomes zeros; without it the first error ends the conversion. */
  readonly salvage?: (sentence: string) => void;
  /** Called with the bytes of the disk that are done, which never get less. */
  readonly progress?: (done: number) => void;
  /** Asked before every piece; true ends the conversion with ECANCELED. */
  readonly canceled?: () => boolean;
}

/** @throws {BlockError} EINVAL when the target is too short, ENOTSUP when it cannot be compressed, and what I/O throws. */
export function* convert(environment: Environment, request: ConvertRequest): Co<void> {
  const { target, createCompressor, depth } = request;
  const { leftTo = null } = request;
  const baseOf = (node: BlockNode): BlockNode | null => (leftTo === "backing" ? backingOf(node) : leftTo);
  const source = new JoinedSource(request.sources, baseOf, request.window);
  if (target.length < source.length) throw new BlockError("EINVAL", "output file is smaller than input file");
  if (createCompressor === undefined) return yield* new Conversion(environment, request, source).run(undefined);
  const { compression: kind, clusterSize } = target.driver;
  if (kind === undefined) throw new BlockError("ENOTSUP", "Compression not supported for this file format");
  const pieceBytes = alignUp(COMPRESSED_PIECE_BYTES, clusterSize);
  const compressor: Compressor = yield* createCompressor({ kind, clusterSize, pieceBytes });
  try {
    yield* new Conversion(environment, request, source).run(compressor.pieces(depth));
  } finally {
    yield* compressor.close();
  }
}

class Conversion {
  readonly #request: ConvertRequest;
  readonly #environment: Environment;
  readonly #source: JoinedSource;
  readonly #limit: RateLimit;
  readonly #planning = new CoMutex();
  readonly #order = new WriteOrder();
  readonly #flags: WriteFlags;
  /** What could not be asked for of the piece that is planned. */
  readonly #told: string[] = [];
  #done = 0;
  #failed = false;

  constructor(environment: Environment, request: ConvertRequest, source: JoinedSource) {
    this.#environment = environment;
    this.#request = request;
    this.#source = source;
    this.#limit = new RateLimit(environment.clock, request.speed);
    this.#flags = request.flags;
  }

  *run(compressors: readonly PieceCompressor[] | undefined): Co<void> {
    const { salvage } = this.#request;
    // As in QEMU, all that cannot be asked for is told before anything is copied, and again in its place.
    if (salvage !== undefined) yield* walk(this.#plan(compressors, salvage));
    const plan = this.#plan(compressors, salvage && ((sentence) => this.#told.push(sentence)));
    const lanes =
      compressors?.map((one) => this.#lane(plan, one.bytes, (piece) => this.#packedWrites(piece, one))) ??
      Array.from({ length: this.#request.depth }, () => this.#plainLane(plan));
    yield* join(lanes);
  }

  #plan(compressors: readonly PieceCompressor[] | undefined, salvage: ConvertRequest["salvage"]): ConvertPlan {
    const { target, sparseBytes, backingLength } = this.#request;
    return new ConvertPlan(this.#source, {
      pieceBytes: compressors?.[0]?.bytes.length ?? PIECE_BYTES,
      unit: target.driver.clusterSize,
      zerosAreData: sparseBytes === 0,
      backingLength,
      salvage: salvage && ((offset, error) => salvage(describe("reading block status at offset", offset, error))),
    });
  }

  #plainLane(plan: ConvertPlan): Co<void> {
    const buffer = transferBytes(Math.min(PIECE_BYTES, Math.max(1, this.#source.length)));
    return this.#lane(plan, buffer, (piece) => this.#plainWrites(piece, buffer.subarray(0, piece.length)));
  }

  /** One of the coroutines that take pieces until there are no more. */
  *#lane(plan: ConvertPlan, buffer: Uint8Array, toWrites: (piece: Piece) => Co<Write[]>): Co<void> {
    try {
      for (;;) {
        const piece = yield* this.#planning.run(() => this.#take(plan));
        if (piece === undefined) return;
        const told = this.#told.splice(0);
        if (piece.kind === "data") yield* this.#read(piece, buffer, told);
        const writes = piece.kind === "data" ? yield* toWrites(piece) : this.#zeroWrites(piece);
        if (told.length > 0) writes.unshift(this.#telling(told));
        yield* this.#write(piece, writes);
        if (this.#failed) return;
        this.#done += piece.length;
        this.#request.progress?.(this.#done);
      }
    } catch (error) {
      this.#failed = true;
      this.#order.stop();
      throw error;
    }
  }

  *#take(plan: ConvertPlan): Co<Piece | undefined> {
    const { canceled } = this.#request;
    for (let delayMs = this.#limit.delayMs(); delayMs > 0; delayMs = this.#limit.delayMs())
      yield* sleep(this.#environment.clock, delayMs, () => this.#failed || canceled?.() === true);
    if (this.#failed) return undefined;
    if (canceled?.() === true) throw new BlockError("ECANCELED", "the conversion was canceled");
    const piece = yield* plan.next();
    if (piece?.kind === "data") this.#limit.spend(piece.length);
    return piece;
  }

  /** Fills the buffer with the piece, and with zeros behind it. */
  *#read({ offset, length }: Piece, buffer: Uint8Array, told: string[]): Co<void> {
    const { salvage } = this.#request;
    const bytes = buffer.subarray(0, length);
    try {
      yield* this.#source.read(offset, bytes);
    } catch (error) {
      if (!isBlockError(error)) throw error;
      if (salvage === undefined) throw explained("reading", offset, error);
      yield* this.#salvage(offset, bytes, told);
    }
    if (length % this.#request.target.driver.clusterSize !== 0) buffer.fill(0, length);
  }

  /** Reads sector by sector what can be read. */
  *#salvage(offset: number, bytes: Uint8Array, told: string[]): Co<void> {
    for (let done = 0; done < bytes.length; done += SECTOR_SIZE) {
      const sector = bytes.subarray(done, done + SECTOR_SIZE);
      try {
        yield* this.#source.read(offset + done, sector);
      } catch (error) {
        if (!isBlockError(error)) throw error;
        told.push(describe("reading offset", offset + done, error));
        sector.fill(0);
      }
    }
  }

  /** Says in the piece's turn what could not be read of it. */
  #telling(told: readonly string[]): Write {
    const { salvage } = this.#request;
    return function* () {
      for (const sentence of told) salvage?.(sentence);
    };
  }

  *#write({ index, offset }: Piece, writes: readonly Write[]): Co<void> {
    try {
      yield* this.#request.inOrder ? this.#order.run(index, writes) : join(writes.map((write) => write()));
    } catch (error) {
      if (!isBlockError(error)) throw error;
      throw explained("writing", offset, error);
    }
  }

  #zeroWrites({ kind, offset, length }: Piece): Write[] {
    if (kind === "backing" || this.#request.targetIsZero) return [];
    return [() => this.#request.target.writeZeroes(offset, length, this.#flags)];
  }

  #plainWrite(offset: number, bytes: Uint8Array): Write {
    return (placed) =>
      this.#request.target.write(
        offset,
        IoVector.of(bytes),
        placed === undefined ? this.#flags : { ...this.#flags, placed },
      );
  }

  *#plainWrites({ offset, length }: Piece, bytes: Uint8Array): Co<Write[]> {
    const { target, sparseBytes } = this.#request;
    if (sparseBytes === undefined || sparseBytes === 0) return [this.#plainWrite(offset, bytes)];
    // Clusters are stored as a whole, and each by one write: then they take their places in order.
    const unit = Math.max(2 ** Math.floor(Math.log2(sparseBytes)), target.driver.clusterSize);
    return sparseRuns(bytes.subarray(0, length), offset, unit, sparseBytes).flatMap(({ start, end, zero }) =>
      zero
        ? this.#zeroWrites({ kind: "zero", offset: offset + start, length: end - start, index: 0 })
        : [this.#plainWrite(offset + start, bytes.subarray(start, end))],
    );
  }

  /** Compresses the clusters that are not all zeros, and stores those plainly that do not get smaller. */
  *#packedWrites({ offset, length }: Piece, { bytes, compress }: PieceCompressor): Co<Write[]> {
    const { target, sparseBytes } = this.#request;
    const { clusterSize } = target.driver;
    const whole = bytes.subarray(0, alignUp(length, clusterSize));
    const runs = sparseRuns(whole, 0, clusterSize, 0);
    const isStored = ({ zero }: { readonly zero: boolean }): boolean => !zero || sparseBytes === 0;
    const clusters = runs.filter(isStored).flatMap(({ start, end }) => indexes(start / clusterSize, end / clusterSize));
    const packed = yield* compress(clusters);
    const writes: Write[] = [];
    let next = 0;
    for (const run of runs) {
      const end = Math.min(run.end, length);
      if (!isStored(run))
        writes.push(
          ...this.#zeroWrites({ kind: "zero", offset: offset + run.start, length: end - run.start, index: 0 }),
        );
      else {
        const count = (run.end - run.start) / clusterSize;
        writes.push(...this.#storeRun(offset, bytes.subarray(0, length), run.start, packed.slice(next, next + count)));
        next += count;
      }
    }
    return writes;
  }

  #storeRun(offset: number, bytes: Uint8Array, start: number, packed: readonly (Uint8Array | undefined)[]): Write[] {
    const { target } = this.#request;
    const { clusterSize } = target.driver;
    const writes: Write[] = [];
    for (let first = 0; first < packed.length; ) {
      const isPacked = packed[first] !== undefined;
      let end = first + 1;
      while (end < packed.length && (packed[end] !== undefined) === isPacked) end += 1;
      const at = start + first * clusterSize;
      const plain = bytes.subarray(at, start + end * clusterSize);
      const clusters = packed.slice(first, end);
      writes.push(
        isPacked
          ? () => target.writePacked(offset + at, clusters as Uint8Array[])
          : this.#plainWrite(offset + at, plain),
      );
      first = end;
    }
    return writes;
  }
}

function indexes(from: number, end: number): number[] {
  return Array.from({ length: end - from }, (_, index) => from + index);
}

/** Looks at all pieces. */
function* walk(plan: ConvertPlan): Co<void> {
  while ((yield* plan.next()) !== undefined);
}

function describe(action: string, offset: number, error: Error): string {
  return `error while ${action} ${offset}: ${isBlockError(error) ? errnoText(error.code) : error.message}`;
}

function explained(action: string, offset: number, error: BlockError): BlockError {
  return new BlockError(error.code, describe(`${action} at byte`, offset, error), error.context, error);
}
