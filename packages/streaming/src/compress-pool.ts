/**
 * A conversion's compressor on worker threads. Threads take a while to start, so the owner's thread compresses until they
 * are there, and again when none is left.
 */
import { type Co, until } from "@spindle/base";
import type { Codecs } from "@spindle/block";
import {
  type Compressor,
  type CompressorOptions,
  type CreateCompressor,
  type PieceCompressor,
  packCluster,
} from "@spindle/jobs";
import type { Thread, ThreadTableHandle } from "@spindle/shared-memory";
import type { Piscina } from "piscina";
import { CompressBoard } from "./compress-board.ts";
import type { CompressTask } from "./compress-worker.ts";
import { settled } from "./settled.ts";
import { workerThreads } from "./worker-threads.ts";

export interface CompressPoolOptions {
  readonly threads: ThreadTableHandle;
  /** The owner's place in that table; its runner sleeps on it, on an event loop. */
  readonly owner: Thread;
  readonly codecs: Codecs;
  /** At least 1. */
  readonly workers: number;
}

/** Makes compressors with so many workers each. */
export function compressPool(options: CompressPoolOptions): CreateCompressor {
  return function* (compressorOptions) {
    return new PoolCompressor(options, compressorOptions);
  };
}

class PoolCompressor implements Compressor {
  readonly #pool: CompressPoolOptions;
  readonly #options: CompressorOptions;
  #board: CompressBoard | undefined;
  #piscina: Piscina | undefined;
  #tasks: Promise<void>[] = [];

  constructor(pool: CompressPoolOptions, options: CompressorOptions) {
    this.#pool = pool;
    this.#options = options;
  }

  pieces(count: number): PieceCompressor[] {
    const { workers } = this.#pool;
    const board = new CompressBoard(CompressBoard.create(this.#options, count, workers));
    this.#board = board;
    const piscina = workerThreads("compress-worker", { minThreads: workers, maxThreads: workers });
    this.#piscina = piscina;
    this.#tasks = Array.from({ length: workers }, (_, worker) => this.#start(piscina, board, worker));
    return Array.from({ length: count }, (_, piece) => ({
      bytes: board.bytes(piece),
      compress: (clusters) => this.#compress(board, piece, clusters),
    }));
  }

  *close(): Co<void> {
    this.#board?.stop();
    this.#ringWorkers();
    yield* settled(async () => {
      await Promise.all(this.#tasks);
      await this.#piscina?.destroy();
    });
  }

  /** @returns a promise that ends with the worker, however that ends. */
  async #start(piscina: Piscina, board: CompressBoard, worker: number): Promise<void> {
    const { threads, owner } = this.#pool;
    const task: CompressTask = { board: board.handle, threads, ownerThread: owner.index, worker };
    try {
      await piscina.run(task);
    } catch {
      // It has died: what it had is put up again, for another or for this thread.
      const thread = board.threadOf(worker);
      board.setThread(worker, undefined);
      board.abandon(worker);
      if (thread !== undefined) owner.table.free(thread);
      this.#ringWorkers();
      owner.ring();
    }
  }

  *#compress(board: CompressBoard, piece: number, clusters: readonly number[]): Co<(Uint8Array | undefined)[]> {
    if (clusters.length === 0) return [];
    board.want(piece, clusters);
    this.#ringWorkers();
    while (!board.isDone(piece)) {
      if (!this.#hasWorkers(board) && board.takeBack(piece)) return this.#compressHere(board, piece, clusters);
      yield* until(() => board.isDone(piece) || !this.#hasWorkers(board));
    }
    return board.results(piece, clusters);
  }

  #compressHere(board: CompressBoard, piece: number, clusters: readonly number[]): (Uint8Array | undefined)[] {
    const { kind, clusterSize } = this.#options;
    const bytes = board.bytes(piece);
    return clusters.map((index) =>
      packCluster(this.#pool.codecs, kind, bytes.subarray(index * clusterSize, (index + 1) * clusterSize))?.slice(),
    );
  }

  #hasWorkers(board: CompressBoard): boolean {
    for (let worker = 0; worker < this.#pool.workers; worker++) if (board.threadOf(worker) !== undefined) return true;
    return false;
  }

  #ringWorkers(): void {
    const { owner, workers } = this.#pool;
    for (let worker = 0; worker < workers; worker++) {
      const thread = this.#board?.threadOf(worker);
      if (thread !== undefined) owner.table.ring(thread);
    }
  }
}
