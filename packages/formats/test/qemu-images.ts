/** Image files for QEMU's programs, in a directory of their own: the oracle of this package's tests. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MemoryDriver as Memory, type MemoryDriver } from "@spindle/testkit";
import { peer } from "@spindle/testkit/peers";
import { contentOf } from "./open-image.ts";

export const qemuImg: string | undefined = peer("qemu-img");
export const qemuIo: string | undefined = peer("qemu-io");

export class QemuImages {
  readonly #directory: string = mkdtempSync(join(tmpdir(), "spindle-formats-"));

  path(name: string): string {
    return join(this.#directory, name);
  }

  /** Runs `qemu-img` in the directory and returns what it prints. @throws {Error} when it fails. */
  img(...words: string[]): string {
    return this.#run(qemuImg as string, words);
  }

  /** The same, several times until it succeeds: making a key fails on hosts that are too busy to measure their speed. */
  imgAgain(...words: string[]): void {
    for (let attempt = 1; ; attempt++) {
      const { code, stderr } = this.tryImg(...words);
      if (code === 0) return;
      if (attempt === 5) throw new Error(`${words.join(" ")}: ${stderr}`);
    }
  }

  /** Runs `qemu-img`, which may fail. */
  tryImg(...words: string[]): { readonly code: number; readonly stdout: string; readonly stderr: string } {
    const { status, stdout, stderr } = this.#spawn(qemuImg as string, words);
    return { code: status ?? -1, stdout, stderr };
  }

  /** Runs commands of `qemu-io` on an image. */
  io(name: string, ...commands: string[]): void {
    this.#run(qemuIo as string, [...commands.flatMap((command) => ["-c", command]), name]);
  }

  /** The exit code of `qemu-img check`: 0 is clean, 3 has leaks, 2 is corrupt. */
  check(name: string): { readonly code: number; readonly text: string } {
    const { status, stdout, stderr } = this.#spawn(qemuImg as string, ["check", name]);
    return { code: status ?? -1, text: stdout + stderr };
  }

  /** Repairs everything, twice: QEMU's own repair is not always done after one pass. */
  repair(name: string): void {
    for (let pass = 0; pass < 2; pass++) this.#spawn(qemuImg as string, ["check", "-r", "all", name]);
  }

  /** What a guest sees of an image, as qemu-img tells it. */
  disk(name: string, ...options: string[]): Uint8Array {
    this.img("convert", ...options, "-O", "raw", name, "disk.raw");
    return this.bytes("disk.raw");
  }

  bytes(name: string): Uint8Array {
    return new Uint8Array(readFileSync(this.path(name)));
  }

  put(name: string, bytes: Uint8Array): void {
    writeFileSync(this.path(name), bytes);
  }

  load(name: string): MemoryDriver {
    return new Memory(this.bytes(name));
  }

  store(name: string, driver: MemoryDriver): void {
    this.put(name, contentOf(driver.content));
  }

  remove(): void {
    rmSync(this.#directory, { recursive: true });
  }

  #run(program: string, words: readonly string[]): string {
    const { status, stdout, stderr } = this.#spawn(program, words);
    if (status !== 0) throw new Error(`${program} ${words.join(" ")}: ${stdout}${stderr}`);
    return stdout;
  }

  #spawn(program: string, words: readonly string[]) {
    return spawnSync(program, words, {
      cwd: this.#directory,
      encoding: "utf8",
      timeout: 20_000,
      maxBuffer: 256 * 1024 * 1024,
    });
  }
}
