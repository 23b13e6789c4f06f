/** Runs QEMU's iotests with some image tools, and tells how each test ended. */
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

/** The program as it is shipped. */
const PROGRAM = fileURLToPath(new URL("../../../tools/spindle/bin/spindle.cjs", import.meta.url));

/** Whose qemu-img and qemu-io: ours, or those of the host. */
export type Tools = "ours" | "theirs";

export interface SuiteOptions {
  /** The folder of the tests. */
  readonly folder: string;
  readonly tools: Tools;
  readonly format: "qcow2" | "raw";
  /** Options with which images are created, such as `compat=0.10`. */
  readonly imageOptions?: string | undefined;
  readonly tests: readonly string[];
  /** Called when a test has ended. */
  readonly ended?: (test: string, result: TestResult) => void;
}

/** A test that the format, or the host, does not allow is not run. */
export type TestResult = "pass" | "fail" | "not run";

export interface SuiteResult {
  readonly results: ReadonlyMap<string, TestResult>;
  /** What the tests that failed printed, compared with what they should have. */
  readonly differences: string;
}

/** One line of the suite's report (Test Anything Protocol). */
const REPORT = /^(ok|not ok) \S+ (\S+)(.*)$/;

/** @throws {Error} when the suite itself does not run. */
export async function runSuite(options: SuiteOptions): Promise<SuiteResult> {
  const { folder, format, imageOptions, tests, ended } = options;
  // Names of sockets are short.
  const scratch = mkdtempSync(join(tmpdir(), "iot-"));
  try {
    const flags = ["-tap", `-${format}`, ...(imageOptions === undefined ? [] : ["-o", imageOptions])];
    const child = spawn("python3", ["./check", ...flags, ...tests], {
      cwd: folder,
      env: environment(scratch, options.tools),
      stdio: ["ignore", "pipe", "pipe"],
    });
    let differences = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      differences += text;
    });
    const results = new Map<string, TestResult>();
    for await (const line of createInterface({ input: child.stdout })) {
      const [, verdict, test, rest = ""] = REPORT.exec(line) ?? [];
      if (test === undefined) continue;
      const result = verdict !== "ok" ? "fail" : /skip/i.test(rest) ? "not run" : "pass";
      results.set(test, result);
      ended?.(test, result);
    }
    if (results.size < tests.length) throw new Error(`the suite ended early:\n${differences}`);
    return { results, differences };
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

function environment(scratch: string, tools: Tools): NodeJS.ProcessEnv {
  const folders = { TEST_DIR: join(scratch, "t"), SOCK_DIR: join(scratch, "s"), bin: join(scratch, "bin") };
  for (const folder of Object.values(folders)) mkdirSync(folder);
  const host = (name: string): string => join("/usr/bin", name);
  const stand = (name: string): string => {
    if (tools === "theirs") return host(name);
    const link = join(folders.bin, name);
    symlinkSync(PROGRAM, link);
    return link;
  };
  return {
    ...process.env,
    TEST_DIR: folders.TEST_DIR,
    SOCK_DIR: folders.SOCK_DIR,
    QEMU_PROG: host("qemu-system-x86_64"),
    QEMU_IMG_PROG: stand("qemu-img"),
    QEMU_IO_PROG: stand("qemu-io"),
    QEMU_NBD_PROG: host("qemu-nbd"),
    QSD_PROG: host("qemu-storage-daemon"),
    // The suite's own Python, with nothing of the user's.
    PYTHONPATH: "",
  };
}
