/** The program under other names: it answers as the program for which it stands in. */
import { symlinkSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { run, Scratch, SPINDLE, spindle } from "./program.ts";

const [node = "", ...nodeOptions] = SPINDLE.slice(0, -1);
const MAIN = SPINDLE.at(-1) as string;

test("is qemu-img when a link of that name is started", async () => {
  using scratch = new Scratch();
  symlinkSync(MAIN, scratch.path("qemu-img"));

  const outcome = await run([node, ...nodeOptions, scratch.path("qemu-img"), "info", "gone"], { cwd: scratch.folder });
  expect(outcome.stderr).toMatch(/^qemu-img: Could not open 'gone': .*\n$/);
});

test("is qemu-img when it is told so", async () => {
  const here = { cwd: "." };
  const outcome = await spindle(["--as", "qemu-img", "nonsense"], here);
  const said = "qemu-img: Command not found: nonsense\nTry 'qemu-img --help' for more information\n";
  expect(outcome).toEqual({ code: 1, stdout: "", stderr: said });
  expect((await spindle(["--as", "qemu-img", "--version"], here)).stdout).toMatch(
    /^qemu-img version 7\.2\.0 \(Spindle /,
  );
  expect((await spindle(["--as", "nonsense", "info"], here)).stderr).toMatch(/^spindle: --as must be used with /);
});

test("has the help that scripts look into when it stands in", async () => {
  const here = { cwd: "." };
  const { stdout, code } = await spindle(["--as", "qemu-img", "--help"], here);
  expect(code).toBe(0);
  expect(stdout).toMatch(/^qemu-img version 7\.2\.0 .*\nusage: qemu-img \[standard options\] command /);
  expect(stdout).toMatch(/^ {2}create .*\[-f FORMAT\].*\[-o KEY=VALUE,...\].* FILE \[SIZE\]$/m);
  expect(stdout).toMatch(/^ {2}resize .*\[--shrink\]/m);
  expect(stdout).toMatch(/^Supported formats: .*\bqcow2 raw\b/m);
  expect((await spindle(["--as", "qemu-img", "info", "-h"], here)).stdout).toMatch(/^Usage: qemu-img info \[options\]/);
  expect((await spindle(["--as", "qemu-io", "--help"], here)).stdout).toMatch(/^Usage: qemu-io \[options\] \[FILE\]/);
});

test("takes qemu-img's trace option, and warns of events that there are not", async () => {
  using scratch = new Scratch();
  writeFileSync(scratch.path("disk.raw"), new Uint8Array(512));
  writeFileSync(scratch.path("events"), "# a list\nbdrv_open_common\n-off\n");
  const info = (...trace: string[]) =>
    run([...SPINDLE, "--as", "qemu-img", ...trace, "info", "-f", "raw", "disk.raw"], { cwd: scratch.folder });
  const warning = (name: string): string => `qemu-img: warning: trace event '${name}' does not exist\n`;
  expect(await info("-T", "qcow2*")).toMatchObject({ code: 0, stderr: "" });
  expect(await info("--trace", "enable=qcow2_open,file=log")).toMatchObject({ code: 0, stderr: warning("qcow2_open") });
  expect(await info("-T", "events=events")).toMatchObject({ code: 0, stderr: warning("bdrv_open_common") });
  expect((await info("-T", "events=gone")).stderr).toMatch(/^qemu-img: Could not open .*'gone'\n$/);
  expect(await run([...SPINDLE, "--as", "qemu-img", "-T", "help"], { cwd: "." })).toMatchObject({
    code: 0,
    stdout: "",
  });
});
