/** The demo's result, as a record for `--json` and as the table that it prints. */
import { formatSize } from "@spindle/base";
import { PHASES, type Phase } from "./guest-statistics.ts";

export interface PhaseResult {
  readonly seconds: number;
  readonly requests: number;
  readonly iops: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

export interface DemoResult {
  readonly seed: number;
  readonly image: string;
  readonly size: number;
  readonly guests: number;
  readonly workers: number;
  readonly stream: {
    readonly seconds: number;
    readonly bytesCopied: number;
    readonly bytesPerSecond: number;
    readonly zeroBytes: number;
    /** Bytes that were not copied because the guests had written them, or were writing them. */
    readonly skippedBytes: number;
  };
  readonly phases: Readonly<Record<Phase, PhaseResult>>;
  readonly waits: { readonly requests: number; readonly meanMs: number; readonly longestMs: number };
  readonly sectorsVerified: number;
  readonly sectorsWrong: number;
  readonly wrong: readonly string[];
  readonly backingFileGone: boolean;
  readonly baseUntouched: boolean;
  readonly ok: boolean;
}

/** The table, line by line. */
export function demoTable(result: DemoResult): string[] {
  const { stream, waits } = result;
  const rows: [string, string][] = [
    ["copied", `${formatSize(stream.bytesCopied)} in ${stream.seconds.toFixed(2)} s`],
    ["rate", `${(stream.bytesPerSecond / 1e6).toFixed(0)} MB/s`],
    ["skipped, the guests had written", formatSize(stream.skippedBytes)],
    ["zeros, nothing to copy", formatSize(stream.zeroBytes)],
    ["requests that waited", waitText(waits)],
    ["sectors verified", String(result.sectorsVerified)],
    ["sectors wrong", String(result.sectorsWrong)],
    ["overlay has no backing file", result.backingFileGone ? "yes" : "NO"],
    ["base is byte-identical", result.baseUntouched ? "yes" : "NO"],
  ];
  const width = Math.max(...rows.map(([name]) => name.length));
  const lines = rows.map(([name, value]) => `  ${name.padEnd(width)}  ${value}`);
  const header = `  ${"guest I/O".padEnd(10)}${["IOPS", "p50", "p99"].map((name) => name.padStart(12)).join("")}`;
  return [header, ...PHASES.map((phase) => phaseLine(phase, result.phases[phase])), "", ...lines];
}

function phaseLine(phase: Phase, { iops, p50Ms, p99Ms }: PhaseResult): string {
  const cells = [iops.toFixed(0), `${p50Ms.toFixed(3)} ms`, `${p99Ms.toFixed(3)} ms`];
  return `  ${phase.padEnd(10)}${cells.map((cell) => cell.padStart(12)).join("")}`;
}

function waitText(waits: DemoResult["waits"]): string {
  if (waits.requests === 0) return "0";
  return `${waits.requests}, ${waits.meanMs.toFixed(3)} ms on average, ${waits.longestMs.toFixed(3)} ms at most`;
}
