/**
 * Some of QEMU's own tests of its image tools, with ours in their place: those that do not take long. `npm run iotests`
 * fetches the suite and runs all that are listed.
 */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { peer } from "@spindle/testkit/peers";
import { describe, expect, test } from "vitest";
import { SHORT_TESTS } from "./listed-tests.ts";
import { fetchedTests, fetchTests } from "./qemu-source.ts";
import { runSuite } from "./suite-run.ts";

const REQUIRED = process.env["SPINDLE_REQUIRE_PEERS"] === "1";
const BUILT = existsSync(fileURLToPath(new URL("../../../tools/spindle/dist/main.js", import.meta.url)));
const folder = BUILT && hasReferencePrograms() ? (REQUIRED ? fetchTests() : fetchedTests()) : undefined;

if (folder === undefined)
  process.stderr.write("\n*** QEMU's iotests are not there (npm run iotests fetches them): they are SKIPPED ***\n");

function hasReferencePrograms(): boolean {
  const programs = ["python3", "qemu-img", "qemu-io", "qemu-nbd", "qemu-storage-daemon", "qemu-system-x86_64"];
  return programs.map(peer).every((program) => program !== undefined);
}

describe.skipIf(folder === undefined)("QEMU's own tests", () => {
  test.each(Object.entries(SHORT_TESTS))(
    "pass with our image tools: %s",
    { timeout: 300_000 },
    async (format, tests) => {
      const options = { folder: folder as string, tools: "ours", format: format as "qcow2" | "raw", tests } as const;
      const { results, differences } = await runSuite(options);
      expect(Object.fromEntries(results), differences).toEqual(Object.fromEntries(tests.map((name) => [name, "pass"])));
    },
  );
});
