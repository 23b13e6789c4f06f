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

export interface StreamProcessOptions {
  /** Runs the compiled packages, as users have them, instead of the sources. They have been built. */
  readonly built?: boolean;
}

export async function streamInProcess(
  work: StreamWork,
  { built = false }: StreamProcessOptions = {},
): Promise<StreamProcessOutcome> {
  const script = fileURLToPath(new URL("./stream-child.ts", import.meta.url));
  const node = ["--disable-warning=ExperimentalWarning", ...(built ? [] : ["--conditions=spindle-source"])];
  const begin = performance.now();
  const { stdout } = await run(process.execPath, [...node, script, JSON.stringify(work)]);
  const wallSeconds = (performance.now() - begin) / 1_000;
  return { ...(JSON.parse(stdout) as StreamOutcome), wallSeconds };
}
