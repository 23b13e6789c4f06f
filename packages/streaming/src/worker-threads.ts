/** Threads of this package's workers, kept by piscina: sources, build and bundle are laid out alike; only the ending differs. */
import { extname } from "node:path";
import { fileURLToPath } from "node:url";
import { Piscina } from "piscina";

/** Workers leave little behind on the heap: a small nursery is enough, and saves tens of megabytes a thread. */
const NURSERY_MIB = 4;

export interface WorkerThreadsOptions {
  readonly minThreads: number;
  readonly maxThreads: number;
}

/** @param entry the file name of the worker's entry in this folder, without its ending */
export function workerThreads(entry: string, { minThreads, maxThreads }: WorkerThreadsOptions): Piscina {
  const ending = extname(import.meta.url);
  return new Piscina({
    filename: fileURLToPath(new URL(`./${entry}${ending}`, import.meta.url)),
    minThreads,
    maxThreads,
    idleTimeout: 10_000,
    atomics: "disabled",
    resourceLimits: { maxYoungGenerationSizeMb: NURSERY_MIB },
    ...(ending === ".ts" ? { execArgv: ["--conditions=spindle-source", "--disable-warning=ExperimentalWarning"] } : {}),
  });
}
