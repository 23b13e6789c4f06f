/** A folder for the images of one test, and the reference programs in it. */
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export class Scratch implements Disposable {
  readonly folder: string = mkdtempSync(join(tmpdir(), "spindle-library-"));

  path(name: string): string {
    return join(this.folder, name);
  }

  tool(program: string, ...argv: readonly string[]): string {
    return execFileSync(program, argv, { cwd: this.folder, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
  }

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}
