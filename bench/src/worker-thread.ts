/** Worker threads of a bench, started from its sources. */
import { Worker } from "node:worker_threads";

export interface WorkerThread {
  /** Settles when the thread has ended; rejects with its error. */
  readonly ended: Promise<void>;
}

/** @param file the worker's file beside this one, such as `range-lock-worker.ts` */
export function startWorker(file: string, workerData: object): WorkerThread {
  const worker = new Worker(new URL(file, import.meta.url), {
    workerData,
    execArgv: ["--conditions=spindle-source", "--disable-warning=ExperimentalWarning"],
  });
  const ended = new Promise<void>((resolve, reject) => {
    worker.once("error", reject);
    worker.once("exit", () => resolve());
  });
  // Whoever waits for it sees the error; until then it is no unhandled one.
  ended.catch(() => {});
  return { ended };
}
