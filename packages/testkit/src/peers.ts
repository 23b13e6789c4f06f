/**
 * Reference programs that tests use as oracles: qemu-img, qemu-io, nbdinfo and the like. A test whose program is absent
 * is skipped, loudly; where `SPINDLE_REQUIRE_PEERS=1` is set, as in continuous integration, it fails instead.
 */
import { accessSync, constants, statSync } from "node:fs";
import { delimiter, join } from "node:path";

const announced = new Set<string>();

/**
 * The path of a program, or undefined when it is not installed.
 *
 * ```ts
 * const qemuImg = peer("qemu-img");
 * describe.skipIf(qemuImg === undefined)("against qemu-img", () => { ... });
 * ```
 * @throws {Error} when the program is absent and `SPINDLE_REQUIRE_PEERS=1`.
 */
export function peer(name: string): string | undefined {
  for (const folder of (process.env["PATH"] ?? "").split(delimiter)) {
    if (folder === "") continue;
    const path = join(folder, name);
    if (isProgram(path)) return path;
  }
  if (process.env["SPINDLE_REQUIRE_PEERS"] === "1")
    throw new Error(`the program '${name}' is required by SPINDLE_REQUIRE_PEERS=1 and is not in the PATH`);
  if (!announced.has(name)) {
    announced.add(name);
    process.stderr.write(`\n*** '${name}' is not installed: the tests that compare with it are SKIPPED ***\n`);
  }
  return undefined;
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}
