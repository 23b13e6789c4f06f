/** Programs as whole processes: how long one runs, and the most memory that it has meanwhile. */
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { type BenchContext, measuresBuild } from "./bench.ts";

export interface ProgramRun {
  readonly seconds: number;
  /** Resident memory at most, in bytes; 0 when it was over too soon to be looked at. */
  readonly peakMemory: number;
}

const LOOK_MS = 20;

/** The command line of `spindle`: the built program where figures count, and the sources otherwise. */
export function spindleProgram(context: BenchContext): string[] {
  const script = measuresBuild(context) ? "bin/spindle.cjs" : "src/main.ts";
  const options = measuresBuild(context)
    ? []
    : ["--conditions=spindle-source", "--disable-warning=ExperimentalWarning"];
  return [process.execPath, ...options, fileURLToPath(new URL(`../../tools/spindle/${script}`, import.meta.url))];
}

/** Runs a program whose output nobody reads. @throws when it does not end with 0 */
export function runProgram([program = "", ...argv]: readonly string[]): Promise<ProgramRun> {
  return new Promise((resolve, reject) => {
    const begin = performance.now();
    let peakMemory = 0;
    let said = "";
    const child = spawn(program, argv, { stdio: ["ignore", "ignore", "pipe"] });
    const look = setInterval(() => {
      peakMemory = Math.max(peakMemory, residentMost(child.pid ?? 0));
    }, LOOK_MS);
    child.stderr.on("data", (bytes: Buffer) => {
      said += bytes.toString();
    });
    child.on("error", reject);
    child.on("close", (code) => {
      clearInterval(look);
      if (code === 0) resolve({ seconds: (performance.now() - begin) / 1_000, peakMemory });
      else reject(new Error(`${program} ${argv.join(" ")} ended with ${code}: ${said}`));
    });
  });
}

function residentMost(pid: number): number {
  try {
    const kibibytes = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
    return Number(kibibytes ?? 0) * 1024;
  } catch {
    // It has ended, or the host tells nothing of its processes.
    return 0;
  }
}
