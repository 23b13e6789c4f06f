/**
 * `spindle io` against qemu-io: the same commands on the same image give the same lines and the same exit code, and leave
 * the same disk. Only times differ, and the words of the help.
 */

import { spawn, spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { peer } from "@spindle/testkit/peers";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { CASES, RULES } from "./io-cases.ts";
import { Scratch, SPINDLE } from "./program.ts";

const qemuImg = peer("qemu-img");
const qemuIo = peer("qemu-io");
const OURS = [...SPINDLE, "--as", "qemu-io"];

const IMAGES = ["disk.qcow2", "v2.qcow2", "over.qcow2", "base.raw", "disk.raw"];

describe.skipIf(qemuImg === undefined || qemuIo === undefined)("as qemu-io", () => {
  const scratch = new Scratch();
  const img = (...argv: string[]): string => scratch.tool(qemuImg as string, ...argv);

  beforeAll(() => {
    img("create", "-f", "qcow2", "disk.qcow2", "4M");
    img("create", "-f", "qcow2", "-o", "compat=0.10", "v2.qcow2", "4M");
    img("create", "-f", "raw", "base.raw", "4M");
    img("create", "-f", "raw", "disk.raw", "4M");
    scratch.tool(qemuIo as string, "-f", "raw", "-c", "write -P 0x42 0 2M", "base.raw");
    img("create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "over.qcow2");
    scratch.tool(qemuIo as string, "-c", "write -P 0x43 64k 64k", "-c", "write -z 1M 64k", "over.qcow2");
    writeFileSync(scratch.path("words"), "every good boy deserves favour");
    writeFileSync(scratch.path("empty"), "");
    writeFileSync(scratch.path("rules"), RULES);
    writeFileSync(scratch.path("magic"), Uint8Array.of(0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3));
  });
  afterAll(() => scratch[Symbol.dispose]());

  test.each(CASES)("%s", (title, options, ...commands) => {
    const words = [...optionWords(options), ...commands.flatMap((command) => ["-c", command])];
    const ours = runIn(folderOf(scratch, `ours ${title}`), OURS, words);
    const theirs = runIn(folderOf(scratch, `theirs ${title}`), [qemuIo as string], words);
    expect(ours).toEqual(theirs);
    for (const image of IMAGES) expectSameDisk(scratch, title, image);
  });

  test("asks for commands", () => {
    const input = "write 0 64k\n\nread  -P  0xcd 0   64k\nnonsense\nlength\n";
    const ours = runIn(scratch.folder, OURS, ["disk.qcow2"], input);
    expect(ours).toEqual(runIn(scratch.folder, [qemuIo as string], ["disk.qcow2"], input));
    expect(ours.output).toContain("qemu-io> 4 MiB\nqemu-io> ");
    const quit = runIn(scratch.folder, OURS, ["disk.qcow2"], "quit\nlength\n");
    expect(quit).toEqual(runIn(scratch.folder, [qemuIo as string], ["disk.qcow2"], "quit\nlength\n"));
  });

  test("is qemu-io when a link of that name is started", () => {
    symlinkSync(SPINDLE.at(-1) as string, scratch.path("qemu-io"));
    const linked = [...SPINDLE.slice(0, -1), scratch.path("qemu-io")];
    expect(runIn(scratch.folder, linked, ["gone"]).output).toBe(
      "qemu-io: can't open device gone: Could not open 'gone': No such file or directory\n",
    );
  });

  test("dies of abort with nothing of its output", () => {
    const words = ["-c", "write 0 1", "-c", "abort", "disk.qcow2"];
    expect(runIn(scratch.folder, OURS, words)).toMatchObject({ status: null, signal: "SIGABRT", output: "" });
  });

  test("writes and reads long ranges in bounded memory", async () => {
    img("create", "-f", "raw", "large.raw", "8G");
    const [node = "", ...argv] = OURS;
    const child = spawn(node, [...argv, "-f", "raw", scratch.path("large.raw")], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    child.stdin.write(
      "write -P 3 0 128M\nread -P 3 0 128M\nread -P 0 1G 512M\naio_read 4G 128M 128M\naio_flush\nsleep 1\n",
    );
    let output = "";
    for await (const text of child.stdout.setEncoding("utf8")) {
      output += text;
      if (output.split("qemu-io> ").length > 6) break;
    }
    const peak = /VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${child.pid}/status`, "latin1"))?.[1];
    child.kill();
    expect(output).not.toContain("failed");
    expect(Number(peak)).toBeLessThan(200 * 1024);
  });
});

function optionWords(options: string): string[] {
  return options.startsWith("json:") ? [options] : options.split(" ").filter((word) => word !== "");
}

/** A folder with images of its own. */
function folderOf(scratch: Scratch, title: string): string {
  const folder = scratch.path(title);
  mkdirSync(folder);
  for (const name of [...IMAGES, "words", "rules", "empty", "magic"])
    copyFileSync(scratch.path(name), `${folder}/${name}`);
  return folder;
}

/** Standard output and errors go into one file, as they do in scripts. */
function runIn(cwd: string, program: readonly string[], words: readonly string[], input = "") {
  const merged = ["-c", 'exec "$@" 2>&1', "sh", ...program, ...words];
  const { stdout, status, signal } = spawnSync("sh", merged, { cwd, input, encoding: "utf8" });
  return { output: withoutTimes(stdout), status, signal };
}

/** Times and rates, and the words of the help, are each program's own. */
function withoutTimes(text: string): string {
  return text
    .replace(/(\d+ ops; ).*/g, "$1...")
    .replace(/^(\d+,\d+,).*$/gm, "$1...")
    .replace(/^([a-z_]+ \[.*\].*) -- .*$/gm, "$1 -- ...");
}

function expectSameDisk(scratch: Scratch, title: string, image: string): void {
  const [ours, theirs] = ["ours", "theirs"].map((who) => scratch.path(`${who} ${title}/${image}`)) as [string, string];
  expect(existsSync(ours)).toBe(true);
  const format = image.endsWith(".raw") ? "raw" : "qcow2";
  scratch.tool(qemuImg as string, "compare", "-f", format, "-F", format, ours, theirs);
  if (format === "qcow2") scratch.tool(qemuImg as string, "check", ours);
}
