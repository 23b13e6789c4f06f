import * as fs from "node:fs";
import { AsyncRunner } from "@spindle/base";
import { DriverRegistry, delayFilter, faultFilter, Graph, IoVector } from "@spindle/block";
import { fileDriver, nodeEnvironment, nodeEventLoop } from "@spindle/host-node";
import { JobRegistry, startStream } from "@spindle/jobs";
import { RangeLock, ThreadTable } from "@spindle/shared-memory";
import { tinyFormat } from "../../jobs/test/tiny-image.ts";
import { CopyPool } from "../src/index.ts";
import { bareCopy } from "./bare.ts";

const size = Number(process.argv[2] ?? 1024) * 1024 * 1024;
const delay = Number(process.argv[3] ?? 0);
const chunk = Number(process.argv[4] ?? 512) * 1024;
const workers = Number(process.argv[5] ?? 2);
const dir = "/dev/shm/streaming-bench";
fs.mkdirSync(dir, { recursive: true });
const piece = Buffer.alloc(1 << 20, 0x5a);
{
  const fd = fs.openSync(`${dir}/base`, "w");
  for (let at = 0; at < size; at += piece.length) {
    piece.writeDoubleLE(at + 1, 0);
    fs.writeSync(fd, piece, 0, piece.length, at);
  }
  fs.closeSync(fd);
}
if (process.argv[6] === "bare") {
  await bareCopy(dir, size, chunk);
}
fs.writeFileSync(`${dir}/top`, "");
const handle = ThreadTable.create();
const thread = new ThreadTable(handle).attach();
const loop = nodeEventLoop();
const runner = new AsyncRunner(loop, thread);
const environment = nodeEnvironment();
const graph = new Graph({
  environment,
  registry: new DriverRegistry([fileDriver, tinyFormat, delayFilter, faultFilter]),
  backingPolicy: {
    *resolve(_i, b) {
      return b.filename;
    },
  },
  createTracker: () => new RangeLock(RangeLock.create(), thread),
});
const pool = new CopyPool({ threads: handle, owner: thread, clock: environment.clock, runner, workers });
const jobs = new JobRegistry({ clock: environment.clock, runner, wake: () => runner.wake() });
jobs.onEvent((e) => console.log(e.event, JSON.stringify(e.data)));
let base = await runner.run(
  graph.open({ driver: "file", "node-name": "base", filename: `${dir}/base`, "read-only": true }),
);
if (delay > 0)
  base = await runner.run(
    graph.open({ driver: "delay", "node-name": "slow", file: "base", "read-ms": delay, "read-only": true }),
  );
const top = await runner.run(
  graph.open({
    driver: "tiny",
    "node-name": "top",
    size,
    "cluster-size": 65536,
    file: { driver: "file", filename: `${dir}/top` },
    backing: base.name,
    "backing-name": "base",
  }),
);
(top.children.file!.driver as any).flush = function* () {};
const t0 = performance.now();
const job = await runner.run(
  startStream({ graph, jobs, createCopier: pool.createCopier }, { jobId: "j", node: top, chunk }),
);
const t1 = 0;
const tick = setInterval(
  () => console.log((performance.now() - t0) | 0, job.offset, JSON.stringify(job.blockJobInfo()["x-statistics"])),
  2000,
);
await runner.run(job.ended());
clearInterval(tick);
const t2 = performance.now();
console.log(
  "MB/s",
  size / 1e6 / ((t2 - t0) / 1000),
  JSON.stringify(job.blockJobInfo()["x-statistics"]),
  "rss",
  process.memoryUsage().rss / 1e6,
);
const t3 = performance.now();
let ok = true;
for (let at = 0; at < size; at += piece.length) {
  const got = Buffer.alloc(piece.length);
  await runner.run(top.read(at, IoVector.of(got)));
  piece.writeDoubleLE(at + 1, 0);
  if (!got.equals(piece)) {
    ok = false;
    console.log("differs at", at);
    break;
  }
}
console.log("verified", ok);
await runner.run(graph.close());
await pool.close();
fs.rmSync(dir, { recursive: true });
