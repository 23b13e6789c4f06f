/** The verdict of `qemu-img check` on an image in memory. */
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";

/**
 * @param path where the image is put for the program
 * @returns its exit code: 0 is clean, 3 has leaks, 2 is corrupt; and what it printed
 */
export function checkWithQemu(qemuImg: string, path: string, bytes: Uint8Array): { code: number; text: string } {
  writeFileSync(path, bytes);
  try {
    return { code: 0, text: execFileSync(qemuImg, ["check", path], { encoding: "utf8", stdio: "pipe" }) };
  } catch (error) {
    const failure = error as { status: number; stdout: string; stderr: string };
    return { code: failure.status, text: failure.stdout + failure.stderr };
  }
}
