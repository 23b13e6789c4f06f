/** Runs stream-child.ts: our stream, in a process that does nothing else. */
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import type { StreamOutcome, StreamWork } from "./stream-child.ts";

const run = promisify(execFile);

export interface StreamProcessOutcome extends StreamOutcome {
  /** From the start of the process to its end. */
  readonly wallSeconds: number;
}

/** @param nodeOptions for the profiler, such as `--cpu-prof` */
export async function streamInProcess(
  work: StreamWork,
  nodeOptions: readonly string[] = [],
): Promise<StreamProcessOutcome> {
  const script = fileURLToPath(new URL("./stream-child.ts", import.meta.url));
  const node = ["--conditions=spindle-source", "--disable-warning=ExperimentalWarning", ...nodeOptions];
  const begin = performance.now();
  const { stdout } = await run(process.execPath, [...node, script, JSON.stringify(work)]);
  const wallSeconds = (performance.now() - begin) / 1_000;
  return { ...(JSON.parse(stdout) as StreamOutcome), wallSeconds };
}
