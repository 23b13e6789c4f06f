/** One stream in a process of its own: opens a graph, runs the job, and prints what it took as one line of JSON. */
import { readFileSync } from "node:fs";
import type { OptionRecord } from "@spindle/block";
import { startStream } from "@spindle/jobs";
import { Session } from "spindle";

export interface StreamWork {
  /** The file of the qcow2 image to fill. */
  readonly image: string;
  /** What stands below it, as `blockdev-add` takes it. */
  readonly backing: OptionRecord;
  readonly workers: number;
}

export interface StreamOutcome {
  /** From the start of the job to its end. */
  readonly seconds: number;
  /** Bytes: the most resident memory of the process, and what it had just before the job. */
  readonly peakMemory: number;
  readonly restMemory: number;
  readonly statistics: Readonly<Record<string, number | string>>;
}

/** As `spindle stream` has it. */
const CHUNK_BYTES = 2 * 1024 * 1024;

const { image, backing, workers } = JSON.parse(process.argv[2] ?? "{}") as StreamWork;
await using session = new Session();
const { graph, jobs } = session;
const node = await session.run(graph.open({ driver: "qcow2", file: { driver: "file", filename: image }, backing }));
await session.warmUp(workers);
const restMemory = memoryNow("VmRSS");
const begin = performance.now();
const context = { graph, jobs, createCopier: session.copiers(workers) };
const job = await session.run(startStream(context, { jobId: "stream", node, chunk: CHUNK_BYTES }));
await session.run(job.ended());
const seconds = (performance.now() - begin) / 1_000;
if (job.failure !== undefined) throw job.failure;
const statistics = job.blockJobInfo()["x-statistics"] ?? {};
const outcome: StreamOutcome = { seconds, peakMemory: memoryNow("VmHWM"), restMemory, statistics };
process.stdout.write(`${JSON.stringify(outcome)}\n`);

/** Bytes, from the kernel's own account of this process. */
function memoryNow(key: "VmRSS" | "VmHWM"): number {
  const status = readFileSync("/proc/self/status", "utf8");
  return Number(new RegExp(`^${key}:\\s+(\\d+) kB$`, "m").exec(status)?.[1] ?? Number.NaN) * 1024;
}
