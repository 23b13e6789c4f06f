/** SeaBIOS boots from our disk: another driver than Linux's, with other features and in real mode. */
import { readFileSync, writeFileSync } from "node:fs";
import { peer } from "@spindle/testkit/peers";
import { describe, expect, test } from "vitest";
import { Scratch, spindle } from "../acceptance/program.ts";
import { bootSector } from "./boot-sector.ts";
import { diskArguments, runQemu } from "./machine.ts";
import { ServedImage } from "./served-image.ts";

const qemu = peer("qemu-system-x86_64");
const qemuImg = peer("qemu-img");

const BOOTED = ["the first sector runs", "the second sector is read", "the third sector is written"];
const EXIT = ["-device", "isa-debug-exit,iobase=0xf4,iosize=1"];

function bootDisk(): Buffer {
  const disk = Buffer.alloc(1024 * 1024);
  bootSector().copy(disk);
  disk.write("the second sector is read\n", 512);
  return disk;
}

describe.skipIf(qemu === undefined || qemuImg === undefined)("the firmware", () => {
  test.each(["raw", "qcow2"] as const)("boots a disk, reads and writes it: %s", async (format) => {
    using scratch = new Scratch();
    const disk = bootDisk();
    writeFileSync(scratch.path("disk.raw"), disk);
    await spindle(["create", "-f", "qcow2", "-b", "disk.raw", "-F", "raw", "disk.qcow2"], { cwd: scratch.folder });
    const served = await ServedImage.start(scratch, `disk.${format}`, ["-f", format, "--queues", "2"]);
    const machine = { folder: scratch.folder, socket: scratch.path("socket"), queues: 2 };
    const lines = await runQemu([...diskArguments(machine), ...EXIT], undefined, 120_000);
    expect(lines).toEqual(BOOTED);
    expect(await served.stop()).toEqual({ code: 0, complaints: "" });
    scratch.tool(qemuImg as string, "convert", "-f", format, "-O", "raw", `disk.${format}`, "after.raw");
    const after = readFileSync(scratch.path("after.raw"));
    expect(after.subarray(1024, 1536).equals(disk.subarray(512, 1024))).toBe(true);
  });

  test("finds no disk where the machine's memory is not shared, and the next machine is served", async () => {
    using scratch = new Scratch();
    writeFileSync(scratch.path("disk"), bootDisk());
    const served = await ServedImage.start(scratch, "disk", ["-f", "raw"]);
    const machine = { folder: scratch.folder, socket: scratch.path("socket"), queues: 1 };
    const chardev = ["-chardev", `socket,id=disk,path=${machine.socket}`];
    const device = ["-device", "vhost-user-blk-pci,chardev=disk,num-queues=1,bootindex=1"];
    // The firmware waits for its first request for ever; it would have booted in a tenth of this time.
    const lines = await runQemu(["-m", "256", ...chardev, ...device], undefined, 30_000);
    expect(lines.join("\n")).toContain("consider using -object memory-backend-file share=on");
    expect(lines).not.toContain(BOOTED[0]);
    expect(await runQemu([...diskArguments(machine), ...EXIT], undefined, 120_000)).toEqual(BOOTED);
    expect(await served.stop()).toEqual({ code: 0, complaints: "" });
  }, 240_000);
});
