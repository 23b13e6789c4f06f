/**
 * The program as it is shipped: the built files, on the oldest Node that is promised where one is at hand (SPINDLE_NODE, or
 * the one in the PATH), with and without the calls that Node lacks.
 */
import { execFileSync } from "node:child_process";
import { existsSync, writeFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";
import { MiB } from "@spindle/base";
import { describe, expect, test } from "vitest";
import { type Outcome, run, Scratch } from "./program.ts";

const PROGRAM = fileURLToPath(new URL("../../tools/spindle/bin/spindle.cjs", import.meta.url));
const BUILT = existsSync(fileURLToPath(new URL("../../tools/spindle/dist/main.js", import.meta.url)));
const NODE = productNode();
const BUNDLE_LOADER = fileURLToPath(new URL("../../tools/spindle/bin/bundle-loader.cjs", import.meta.url));

/** Prints the files of the bundle whose compiled code is refused, or all when there is none. */
const REFUSED = `
  const { readdirSync } = require("node:fs");
  const { bundle, compiledScript } = require(process.argv[1]);
  const files = readdirSync(bundle).filter((name) => name.endsWith(".cjs"));
  process.stdout.write(JSON.stringify(files.filter((name) => compiledScript(name).cachedDataRejected !== false)));
`;

/** The user's own Node rather than the one that runs these tests. */
function productNode(): string {
  const given = process.env["SPINDLE_NODE"];
  if (given !== undefined) return given;
  const folders = (process.env["PATH"] ?? "").split(delimiter).filter((folder) => !folder.includes("node_modules"));
  const found = folders.map((folder) => join(folder, "node")).find((path) => existsSync(path));
  return found ?? process.execPath;
}

if (!BUILT) {
  if (process.env["SPINDLE_REQUIRE_PEERS"] === "1") throw new Error("the program is not built: npm run build");
  process.stderr.write("\n*** the program is not built (npm run build): the tests of the build are SKIPPED ***\n");
}

describe.skipIf(!BUILT)(
  `the built program on ${BUILT ? execFileSync(NODE, ["--version"]).toString().trim() : "Node"}`,
  () => {
    test.each([
      ["with koffi", {}],
      ["without koffi", { SPINDLE_NO_KOFFI: "1" }],
    ])("does the main job %s", async (_kind, env) => {
      using scratch = new Scratch();
      const spindle = (...argv: string[]): Promise<Outcome> =>
        run([NODE, PROGRAM, ...argv], { cwd: scratch.folder, env: { NODE_OPTIONS: "", ...env } });
      writeFileSync(scratch.path("base.raw"), Buffer.alloc(96 * MiB, "what the base holds"));
      const created = await spindle("create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "top.qcow2");
      expect(created.stdout).toContain("Formatting 'top.qcow2', fmt=qcow2");
      // Slow enough that the workers get to do most of it.
      const streamed = await spindle("stream", "--speed", "150M", "--progress=json", "top.qcow2");
      expect(streamed).toMatchObject({ code: 0, stderr: "" });
      expect(streamed.stdout.trimEnd().split("\n").at(-1)).toContain('"outcome":"completed"');
      const info = JSON.parse((await spindle("info", "--output=json", "top.qcow2")).stdout) as object;
      expect(info).toMatchObject({ format: "qcow2", "virtual-size": 96 * MiB });
      expect(info).not.toHaveProperty("backing-filename");
      expect(await spindle("compare", "top.qcow2", "base.raw")).toEqual({
        code: 0,
        stdout: "Images are identical.\n",
        stderr: "",
      });
      // What is opened past the page cache takes koffi, which has to be found whatever the output is: here it is a pipe.
      const direct = await spindle("io", "-r", "-n", "-f", "raw", "-c", "read 0 512", "base.raw");
      expect(direct.stdout + direct.stderr).toMatch(
        "SPINDLE_NO_KOFFI" in env ? /needs Linux and the package 'koffi'/ : /^read 512\/512 bytes/,
      );
      expect((await spindle("map", "missing.raw")).stderr).toMatch(/^spindle: .*No such file.*\n$/);
      expect((await spindle("--version")).stdout).toMatch(/^spindle version \d+\.\d+\.\d+\n$/);
    });

    test("takes the code that the build has compiled, on the Node that built", () => {
      // V8 refuses silently what it cannot take; the program would only be slower.
      const refused = execFileSync(process.execPath, ["-e", REFUSED, BUNDLE_LOADER], { env: {} }).toString();
      expect(JSON.parse(refused)).toEqual([]);
    });
  },
);
