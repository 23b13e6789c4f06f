/** The scripts with which shells complete the program's words, in the shells that there are. */
import { writeFileSync } from "node:fs";
import { peer } from "@spindle/testkit/peers";
import { expect, test } from "vitest";
import { run, Scratch, SPINDLE, spindle } from "./program.ts";

test("prints a script for a shell that it knows, and one line for others", async () => {
  expect((await spindle(["--as", "qemu-img", "completion", "bash"], { cwd: "." })).stdout).toMatch(/ qemu-img\n$/);
  for (const operands of [[], ["csh"], ["bash", "zsh"]]) {
    const { stderr, code } = await spindle(["completion", ...operands], { cwd: "." });
    expect(stderr).toMatch(/^spindle: Expecting the name of a shell: bash, fish, zsh /);
    expect(code).toBe(1);
  }
});

/** Completes lines as the shell does, with the program's own script. @returns a line of words for each */
const DRIVERS: Readonly<Record<string, (lines: readonly string[]) => string>> = {
  // Bash's own words are cut at "=", as readline cuts them.
  bash: (lines) => `
source <(spindle completion bash)
for COMP_LINE in ${lines.map((line) => `'${line}'`).join(" ")}; do
  COMP_POINT=\${#COMP_LINE}
  read -ra COMP_WORDS <<< "\${COMP_LINE//=/ = }"
  [[ $COMP_LINE == *' ' ]] && COMP_WORDS+=('')
  COMP_CWORD=$((\${#COMP_WORDS[@]} - 1))
  _spindle
  echo "\${COMPREPLY[*]}"
done`,
  fish: (lines) => `
spindle completion fish | source
${lines.map((line) => `echo (complete -C '${line}' | cut -f1 | string replace -r '.*=' '')`).join("\n")}`,
  // Zsh has no way in but the keyboard: it is asked what its completion would add.
  zsh: (lines) => `
function compdef() { :; }
source <(spindle completion zsh)
function _describe() { local -a all=("\${(@P)3}"); echo \${\${all%%:*}##*=}; }
for line in ${lines.map((line) => `'${line}'`).join(" ")}; do
  words=("\${(@s: :)line}"); CURRENT=$#words
  _spindle
done`,
};

test.each(Object.keys(DRIVERS))("completes in %s", async (shell) => {
  const program = peer(shell);
  if (program === undefined) return;
  using scratch = new Scratch();
  const started = SPINDLE.map((word) => `'${word}'`).join(" ");
  writeFileSync(scratch.path("spindle"), `#!/bin/sh\nexec ${started} "$@"\n`, { mode: 0o755 });
  const lines = ["spindle chec", "spindle check --outp", "spindle info --output=", "spindle check -r "];
  const env = { PATH: `${scratch.folder}:${process.env["PATH"]}` };
  const outcome = await run([program, "-c", DRIVERS[shell]?.(lines) ?? ""], { cwd: scratch.folder, env });
  expect(outcome.stdout.split("\n")).toEqual(["check", "--output", "human json", "leaks all", ""]);
});
