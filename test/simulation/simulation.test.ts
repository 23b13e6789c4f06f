/**
 * Guests, streams, faults and losses of power, thousands of times over: whatever the order in which things happen, no
 * guest reads what it must not, nothing durable is lost, no image is damaged, and everything comes to an end.
 */
import { describe, expect, it } from "vitest";
import { ACCESS_KINDS } from "./guest-access.ts";
import { type HistoryOptions, type HistoryResult, runHistory } from "./history.ts";

/** As many as one busy core does in about a minute; `SPINDLE_LONG=1` asks for twenty times as many. */
const HISTORIES = process.env["SPINDLE_LONG"] === "1" ? 100_000 : 5_000;
const HISTORIES_EACH = 30;
const TIMEOUT_MS = 60 * 60 * 1000;

/** Runs one, and says how to replay it when it goes wrong. */
function replayable(seed: number, options?: HistoryOptions): HistoryResult {
  try {
    return runHistory(seed, options);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    const command = options === undefined ? ` (replay it with: npm run simulate -- --seed ${seed})` : "";
    throw new Error(`history ${seed}${command}: ${message}`, { cause: error });
  }
}

describe("simulated histories", () => {
  it(`go well, ${HISTORIES} of them`, { timeout: TIMEOUT_MS }, () => {
    const seen = { requests: 0, failedRequests: 0, jobs: 0, completedJobs: 0, crashStates: 0 };
    for (let seed = 1; seed <= HISTORIES; seed++) {
      const result = replayable(seed);
      for (const key of Object.keys(seen) as (keyof typeof seen)[]) seen[key] += result[key];
    }
    // What never happens is not tested.
    expect(seen.requests).toBeGreaterThan(HISTORIES * 20);
    expect(seen.failedRequests).toBeGreaterThan(HISTORIES / 4);
    expect(seen.jobs - seen.completedJobs).toBeGreaterThan(HISTORIES / 10);
    expect(seen.completedJobs).toBeGreaterThan(HISTORIES);
    expect(seen.crashStates).toBe(HISTORIES * 4);
  });

  it.each(ACCESS_KINDS)("go well when all guests come by way of: %s", (access) => {
    for (let seed = 100_001; seed <= 100_000 + HISTORIES_EACH; seed++) replayable(seed, { access });
  });

  it("go the same way when they are replayed", () => {
    for (let seed = 1; seed <= 10; seed++) expect(runHistory(seed).fingerprint).toBe(runHistory(seed).fingerprint);
  });

  it("tell what happens in them", () => {
    const lines: string[] = [];
    runHistory(1, { log: (line) => lines.push(line) });
    const text = lines.join("\n");
    for (const part of ["image top.qcow2", "guest 0: ", "top.qcow2: write", "job: start", "power lost at"])
      expect(text).toContain(part);
  });
});
