/**
 * `npm run iotests`: QEMU's own tests of its image tools, with ours in their place. Ends with 0 when every test passes with
 * ours that passes with the host's own. docs/testing.md tells more.
 */
import { parseArgs } from "node:util";
import { IMAGE_TOOL_TESTS } from "./listed-tests.ts";
import { fetchTests } from "./qemu-source.ts";
import { runSuite, type SuiteOptions, type TestResult } from "./suite-run.ts";

const FORMATS = ["qcow2", "raw"] as const;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    format: { type: "string", multiple: true },
    options: { type: "string", short: "o" },
    diff: { type: "boolean" },
    "ours-only": { type: "boolean" },
  },
});

const tests = positionals.length > 0 ? positionals : IMAGE_TOOL_TESTS;
const formats = FORMATS.filter((format) => values.format === undefined || values.format.includes(format));
const folder = fetchTests();
let worse = 0;
for (const format of formats) worse += await compare({ folder, format, imageOptions: values.options, tests });
process.exitCode = worse === 0 ? 0 : 1;

/** @returns how many tests pass with the host's tools and do not with ours. */
async function compare(options: Omit<SuiteOptions, "tools" | "ended">): Promise<number> {
  const theirs = values["ours-only"] === true ? undefined : (await runSuite({ ...options, tools: "theirs" })).results;
  let lost = 0;
  const counts = { pass: 0, fail: 0, "not run": 0 };
  const ended = (test: string, result: TestResult): void => {
    const reference = theirs?.get(test);
    counts[result] += 1;
    if (result !== "pass" && reference === "pass") lost += 1;
    const note = reference === undefined || reference === result ? "" : `   (the host's own: ${reference})`;
    process.stdout.write(`${options.format} ${test.padEnd(12)} ${result}${note}\n`);
  };
  const { differences } = await runSuite({ ...options, tools: "ours", ended });
  if (values.diff === true) process.stdout.write(differences);
  const told = theirs === undefined ? "" : `; ${lost} of them pass with the host's own tools`;
  const { pass, fail } = counts;
  process.stdout.write(`${options.format}: ${pass} passed, ${fail} failed, ${counts["not run"]} not run${told}\n`);
  return theirs === undefined ? fail : lost;
}
