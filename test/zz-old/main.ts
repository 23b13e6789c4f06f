/**
 * Runs simulated histories from the command line: `npm run simulate -- --seed 7` replays one and tells everything that
 * happens in it, `npm run simulate -- --count 100000 --from 1` looks for one that goes wrong.
 */
import { parseArgs } from "node:util";
import { type HistoryResult, runHistory } from "./history.ts";

const COUNT_DEFAULT = 5_000;
const PROGRESS_MS = 5_000;

const { values } = parseArgs({
  options: {
    seed: { type: "string" },
    count: { type: "string", default: String(COUNT_DEFAULT) },
    from: { type: "string" },
    quiet: { type: "boolean", default: false },
  },
});

if (values.seed !== undefined) replay(wholeNumber("seed", values.seed), values.quiet);
else
  explore(wholeNumber("count", values.count), values.from === undefined ? undefined : wholeNumber("from", values.from));

function replay(seed: number, quiet: boolean): void {
  const result = runHistory(seed, quiet ? {} : { log: (line) => process.stdout.write(`${line}\n`) });
  process.stdout.write(`seed ${seed}: ${describe(result)}, fingerprint ${result.fingerprint}\n`);
}

function explore(count: number, from: number | undefined): void {
  const first = from ?? 1;
  const totals = { requests: 0, failedRequests: 0, jobs: 0, completedJobs: 0, crashStates: 0, virtualMs: 0 };
  const beganMs = performance.now();
  let toldMs = beganMs;
  let failures = 0;
  for (let seed = first; seed < first + count; seed++) {
    try {
      const result = runHistory(seed);
      for (const key of Object.keys(totals) as (keyof typeof totals)[]) totals[key] += result[key];
    } catch (error) {
      failures += 1;
      process.stdout.write(`seed ${seed} fails: ${error instanceof Error ? error.message : String(error)}\n`);
      process.stdout.write(`  replay it with: npm run simulate -- --seed ${seed}\n`);
    }
    if (performance.now() - toldMs < PROGRESS_MS) continue;
    toldMs = performance.now();
    process.stderr.write(`${seed - first + 1} of ${count} histories, ${failures} failed\n`);
  }
  const seconds = (performance.now() - beganMs) / 1000;
  process.stdout.write(`${count} histories in ${seconds.toFixed(1)} s, ${failures} failed: ${describe(totals)}\n`);
  if (failures > 0) process.exitCode = 1;
}

type Totals = Pick<
  HistoryResult,
  "requests" | "failedRequests" | "jobs" | "completedJobs" | "crashStates" | "virtualMs"
>;

function describe(totals: Totals): string {
  const { requests, failedRequests, jobs, completedJobs, crashStates, virtualMs } = totals;
  return (
    `${requests} requests (${failedRequests} refused by storage), ${completedJobs} of ${jobs} streams completed, ` +
    `${crashStates} crash states, ${(virtualMs / 1000).toFixed(1)} virtual seconds`
  );
}

function wholeNumber(name: string, text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0) throw new Error(`--${name} takes a whole number, not '${text}'`);
  return value;
}
