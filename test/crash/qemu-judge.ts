/** What QEMU says of a crash state: whether the image is damaged, and what it reads from it through the whole chain. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { SparseBytes } from "@spindle/testkit";
import { TOP_FILE } from "../simulation/image-chain.ts";

export class QemuJudge implements Disposable {
  readonly #qemuImg: string;
  readonly #folder: string;

  constructor(qemuImg: string) {
    this.#qemuImg = qemuImg;
    this.#folder = mkdtempSync(join(tmpdir(), "spindle-crash-"));
  }

  /** Puts a file where the image's backing names find it. */
  put(filename: string, content: SparseBytes): void {
    writeFileSync(join(this.#folder, filename), content.toBytes());
  }

  /** The exit code of `qemu-img check`: 0 is clean, 3 has leaks, 2 is damaged. */
  check(): { readonly code: number | null; readonly text: string } {
    const { status, stdout, stderr } = this.#run(["check", "-f", "qcow2", TOP_FILE]);
    return { code: status, text: stdout + stderr };
  }

  /** The whole disk. @throws {Error} when QEMU cannot read it. */
  readDisk(): Uint8Array {
    const { status, stderr } = this.#run(["convert", "-f", "qcow2", "-O", "raw", TOP_FILE, "disk.raw"]);
    if (status !== 0) throw new Error(`qemu-img cannot read the disk: ${stderr}`);
    return readFileSync(join(this.#folder, "disk.raw"));
  }

  [Symbol.dispose](): void {
    rmSync(this.#folder, { recursive: true, force: true });
  }

  #run(argv: readonly string[]): { status: number | null; stdout: string; stderr: string } {
    return spawnSync(this.#qemuImg, argv, { cwd: this.#folder, encoding: "utf8" });
  }
}
