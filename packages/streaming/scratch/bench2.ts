import * as fs from "node:fs";
import { MIB, PoolWorld } from "../test/pool-world.ts";
import { bareCopy } from "./bare.ts";

process.env["TMPDIR"] = "/dev/shm";
const mode = process.argv[2];
const world = new PoolWorld(Number(process.argv[5] ?? 2));
const size = Number(process.argv[3] ?? 1024) * MIB;
const chunk = Number(process.argv[4] ?? 512) * 1024;
let peak = 0;
const watch = setInterval(() => {
  peak = Math.max(peak, process.memoryUsage().rss);
}, 20);
if (mode === "sparse") {
  fs.writeFileSync(world.path("base.raw"), "");
  fs.truncateSync(world.path("base.raw"), size);
  const fd = fs.openSync(world.path("base.raw"), "r+");
  for (let i = 0; i < 64; i++) fs.writeSync(fd, Buffer.alloc(65536, 1), 0, 65536, Math.floor(size / 64) * i);
  fs.closeSync(fd);
} else {
  const piece = Buffer.alloc(MIB, 0x5a);
  const fd = fs.openSync(world.path("base.raw"), "w");
  for (let at = 0; at < size; at += MIB) {
    piece.writeDoubleLE(at + 1, 0);
    fs.writeSync(fd, piece, 0, MIB, at);
  }
  fs.closeSync(fd);
}
await world.createQcow2("top.qcow2", size);
await world.openImage("base.raw", "raw", { "read-only": true });
let below = "base";
if (mode === "slow") {
  await world.runner.run(
    world.graph.open({ driver: "delay", "node-name": "slow", file: "base", "read-ms": 20, "read-only": true }),
  );
  below = "slow";
}
const top = await world.openImage("top.qcow2", "qcow2", { backing: below });
if (mode === "fast")
  for (let i = 0; i < 2; i++) {
    fs.copyFileSync(world.path("base.raw"), world.path("base"));
    await bareCopy(world.folder, size, chunk);
    fs.rmSync(world.path("base"));
  }
const cpu0 = process.cpuUsage(),
  t0 = performance.now();
const u0 = performance.eventLoopUtilization();
const job = await world.start(top, { chunk });
let mark: [number, number] | undefined;
const tick = setInterval(() => {
  if (!mark && job.blockJobInfo()["x-statistics"]?.["workers"] === 2) mark = [performance.now(), job.offset];
}, 5);
await world.runner.run(job.ended());
const t1 = performance.now();
clearInterval(tick);
clearInterval(watch);
const cpu = process.cpuUsage(cpu0);
console.log(
  mode,
  "MB/s",
  (size / 1e6 / ((t1 - t0) / 1000)).toFixed(0),
  "with workers",
  mark ? ((size - mark[1]) / 1e6 / ((t1 - mark[0]) / 1000)).toFixed(0) : "-",
  "startup ms",
  mark ? (mark[0] - t0).toFixed(0) : "-",
  "ms",
  (t1 - t0).toFixed(0),
  "cpu s",
  (cpu.user + cpu.system) / 1e6,
  "owner util",
  performance.eventLoopUtilization(u0).utilization.toFixed(2),
  "peak rss MiB",
  (peak / MIB).toFixed(0),
  JSON.stringify(job.blockJobInfo()["x-statistics"]),
  job.failure,
);
await world.close();
