/** Runs programs as users do: as processes of their own, in a folder of their own. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const MAIN = fileURLToPath(new URL("../../tools/spindle/src/main.ts", import.meta.url));

/** The program `spindle`, from its sources. */
export const SPINDLE: readonly string[] = [
  process.execPath,
  "--conditions=spindle-source",
  "--disable-warning=ExperimentalWarning",
  MAIN,
];

/** What a program left behind. */
export interface Outcome {
  readonly stdout: string;
  readonly stderr: string;
  /** The exit code; null when a signal has ended it. */
  readonly code: number | null;
}

export interface RunOptions {
  readonly cwd: string;
  readonly env?: NodeJS.ProcessEnv;
  /** Called when the process has started. */
  readonly started?: (child: ChildProcess) => void;
}

/** Runs a program to its end. */
export function run([program = "", ...argv]: readonly string[], { cwd, env, started }: RunOptions): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, argv, { cwd, env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "pipe"] });
    let stdout = "";
    let stderr = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr += text;
    });
    child.on("error", reject);
    child.on("close", (code) => resolve({ stdout, stderr, code }));
    started?.(child);
  });
}

export function spindle(argv: readonly string[], options: RunOptions): Promise<Outcome> {
  return run([...SPINDLE, ...argv], options);
}

/** A folder that is removed with all that is in it. */
export class Scratch implements Disposable {
  readonly folder: string;

  constructor(parent: string = tmpdir()) {
    this.folder = mkdtempSync(join(parent, "spindle-test-"));
  }

  path(name: string): string {
    return join(this.folder, name);
  }

  /** Runs a reference program that must succeed. @returns its output */
  tool(program: string, ...argv: readonly string[]): string {
    return execFileSync(program, argv, { cwd: this.folder, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
  }

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** Whether what a program said is one line that a person can use. */
export function isOneClearLine(stderr: string): boolean {
  return /^spindle: [^\n]{5,}\n$/.test(stderr) && !/internal error|\n\s+at /.test(stderr);
}

/** Whether qemu-img has the same words for what went wrong; some of its errors have two lines. */
export function isSaidAlike(ours: Outcome, theirs: Outcome): boolean {
  return ours.stderr.replaceAll(/^spindle: /gm, "qemu-img: ") === theirs.stderr;
}
