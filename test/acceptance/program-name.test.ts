/** The program under other names: it answers as the program for which it stands in. */
import { symlinkSync } from "node:fs";
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
