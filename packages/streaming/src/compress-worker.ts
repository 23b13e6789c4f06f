/** The entry of a compressing worker: one long piscina task that takes pieces from the board until it is stopped. */
import { SyncRunner, until } from "@spindle/base";
import { nodeEnvironment } from "@spindle/host-node";
import { packCluster } from "@spindle/jobs";
import { ThreadTable, type ThreadTableHandle } from "@spindle/shared-memory";
import { CompressBoard, type CompressBoardHandle } from "./compress-board.ts";

export interface CompressTask {
  readonly board: CompressBoardHandle;
  readonly threads: ThreadTableHandle;
  /** The owner's index in the thread table. */
  readonly ownerThread: number;
  /** This worker's number. */
  readonly worker: number;
}

export default function compressTask({ board: handle, threads, ownerThread, worker }: CompressTask): void {
  const { clock, codecs } = nodeEnvironment();
  const board = new CompressBoard(handle);
  const thread = new ThreadTable(threads).attach();
  const ringOwner = (): void => thread.table.ring(ownerThread);
  const runner = new SyncRunner(clock, thread);
  board.setThread(worker, thread.index);
  ringOwner();
  while (!board.stopped) {
    runner.run(until(() => board.hasWanted || board.stopped));
    for (let piece = board.take(worker); piece !== undefined; piece = board.take(worker)) {
      board.finish(piece, (cluster) => packCluster(codecs, handle.kind, cluster));
      ringOwner();
    }
  }
  board.setThread(worker, undefined);
  thread.detach();
}
