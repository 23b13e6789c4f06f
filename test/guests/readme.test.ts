/** The lines of README.md that boot a machine from a Spindle disk and stream it, run by a shell as they are printed. */
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { peer } from "@spindle/testkit/peers";
import { describe, expect, test } from "vitest";
import { run, Scratch, SPINDLE, spindle } from "../acceptance/program.ts";
import { bootSector } from "./boot-sector.ts";

const qemu = peer("qemu-system-x86_64");
const qemuImg = peer("qemu-img");

const README = readFileSync(new URL("../../README.md", import.meta.url), "utf8");

/** What stands behind the prompts of the block that follows a mark. */
function printedLines(): string {
  const block = /readme\.test\.ts runs these lines\. -->\n```console\n(.*?)```/s.exec(README)?.[1] ?? "";
  return block.replaceAll(/^\$ /gm, "");
}

/** A program by a name in the folder `bin`, which hands its arguments on. */
function stand(scratch: Scratch, name: string, command: string): void {
  writeFileSync(scratch.path(`bin/${name}`), `#!/bin/sh\n${command}\n`);
  chmodSync(scratch.path(`bin/${name}`), 0o755);
}

describe.skipIf(qemu === undefined || qemuImg === undefined)("the lines of the README", () => {
  test("boot a machine from a disk, and stream the disk meanwhile", async () => {
    using scratch = new Scratch();
    const disk = Buffer.alloc(4 * 1024 * 1024);
    bootSector().copy(disk);
    disk.write("the second sector is read\n", 512);
    writeFileSync(scratch.path("disk.raw"), disk);
    await spindle(["convert", "-O", "qcow2", "disk.raw", "base.qcow2"], { cwd: scratch.folder });
    mkdirSync(scratch.path("bin"));
    stand(scratch, "npx", `shift; exec ${SPINDLE.join(" ")} "$@"`);
    // No window, and an end: the boot sector ends the machine.
    stand(scratch, "qemu-system-x86_64", `exec ${qemu} "$@" -display none -device isa-debug-exit,iobase=0xf4,iosize=1`);
    const lines = printedLines();
    expect(lines.split("\n").filter((line) => line !== "").length).toBeLessThanOrEqual(5);
    const script = `exec > out\n${lines}\nfor try in $(seq 900); do grep -q ^completed: out && break; sleep 0.1; done\nkill %1\nwait %1`;
    const env = { PATH: `${scratch.path("bin")}:${process.env["PATH"]}` };
    const { code } = await run(["bash", "-c", script], { cwd: scratch.folder, env });
    expect(code).toBe(0);
    const info = JSON.parse(scratch.tool(qemuImg as string, "info", "--output=json", "vm.qcow2"));
    expect(info).not.toHaveProperty("backing-filename");
    scratch.tool(qemuImg as string, "convert", "-O", "raw", "vm.qcow2", "after.raw");
    expect(readFileSync(scratch.path("after.raw"), "latin1").slice(1024)).toMatch(/^the second sector is read/);
  }, 240_000);
});
