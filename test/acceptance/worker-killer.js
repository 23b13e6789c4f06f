// Loaded before the program: ends the first worker thread that is started, a while later, and tells of it at the end.
import { createRequire, syncBuiltinESMExports } from "node:module";
import { isMainThread } from "node:worker_threads";

const workerThreads = createRequire(import.meta.url)("node:worker_threads");
const { Worker } = workerThreads;
const AFTER_MS = 300;
let started = 0;
let killed = 0;

workerThreads.Worker = class extends Worker {
  constructor(...parameters) {
    super(...parameters);
    started += 1;
    if (started > 1) return;
    setTimeout(() => {
      killed += 1;
      this.terminate();
    }, AFTER_MS);
  }
};

if (isMainThread) {
  syncBuiltinESMExports();
  process.on("exit", () => process.stdout.write(`workers killed: ${killed}\n`));
}
