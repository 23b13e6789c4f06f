/**
 * The main job with reference tools on both sides: chains made by qemu-img over a real ext4 file system are streamed by a
 * program that is killed again and again. Afterwards the image shows what the chain showed, and is sound inside and out.
 * SPINDLE_LONG=1 kills it fifty times in each chain.
 */
import { type ChildProcess, spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { MiB, SeededRandom } from "@spindle/base";
import { peer } from "@spindle/testkit/peers";
import { describe, expect, test } from "vitest";
import { Scratch, spindle } from "./program.ts";

const qemuImg = peer("qemu-img");
const qemuIo = peer("qemu-io");
const mke2fs = peer("mke2fs");
const e2fsck = peer("e2fsck");
const debugfs = peer("debugfs");
const missing = [qemuImg, qemuIo, mke2fs, e2fsck, debugfs].includes(undefined);

const KILLS = process.env["SPINDLE_LONG"] === "1" ? 50 : 3;

/** One image of a chain: its file, its format, and how qemu-img makes it. */
interface Layer {
  readonly file: string;
  readonly format: "raw" | "qcow2";
  readonly options?: string;
  readonly compressed?: boolean;
}

interface Chain {
  readonly name: string;
  readonly layers: readonly [base: Layer, middle: Layer, top: Layer];
}

const CHAINS: readonly Chain[] = [
  {
    name: "raw, qcow2 v2 with zlib, qcow2 v3",
    layers: [
      { file: "base.raw", format: "raw" },
      { file: "middle.qcow2", format: "qcow2", options: "compat=0.10", compressed: true },
      { file: "top.qcow2", format: "qcow2" },
    ],
  },
  {
    name: "zstd, clusters of 2 MiB, clusters of 4 KiB",
    layers: [
      { file: "base.qcow2", format: "qcow2", options: "compression_type=zstd", compressed: true },
      { file: "middle.qcow2", format: "qcow2", options: "cluster_size=2M" },
      { file: "top.qcow2", format: "qcow2", options: "cluster_size=4k" },
    ],
  },
  {
    name: "clusters of 4 KiB with zlib, refcounts of 1 bit, qcow2 v2 with clusters of 2 MiB",
    layers: [
      { file: "base.qcow2", format: "qcow2", options: "cluster_size=4k", compressed: true },
      { file: "middle.qcow2", format: "qcow2", options: "refcount_bits=1,cluster_size=64k" },
      { file: "top.qcow2", format: "qcow2", options: "compat=0.10,cluster_size=2M" },
    ],
  },
];

/** Bytes that compress to about a half, the same for the same seed. */
function content(seed: number, length: number): Buffer {
  const random = new SeededRandom(seed);
  return Buffer.from(Uint8Array.from({ length }, () => random.u32() % 16));
}

/** Three states of one file system, each with more files than the one before. */
function makeFileSystems(scratch: Scratch): void {
  scratch.tool("mkdir", "-p", "tree/folder");
  for (let index = 0; index < 6; index++)
    writeFileSync(scratch.path(`tree/folder/file${index}`), content(index, 2 * MiB + index * 1000));
  scratch.tool(mke2fs as string, "-q", "-t", "ext4", "-d", "tree", "state0.raw", "48M");
  for (const state of [1, 2]) {
    scratch.tool("cp", `state${state - 1}.raw`, `state${state}.raw`);
    writeFileSync(scratch.path("more"), content(100 + state, 3 * MiB));
    scratch.tool(debugfs as string, "-w", "-R", `write more more${state}`, `state${state}.raw`);
  }
}

function makeChain(scratch: Scratch, { layers }: Chain): void {
  layers.forEach(({ file, format, options, compressed }, depth) => {
    const below = layers[depth - 1];
    const settings = options === undefined ? [] : ["-o", options];
    if (below !== undefined) {
      const backing = ["-b", below.file, "-F", below.format];
      scratch.tool(qemuImg as string, "create", "-f", format, ...settings, ...backing, file);
      writeDifferences(scratch, { file, depth, compressed: compressed === true });
    } else {
      const compression = compressed === true ? ["-c"] : [];
      scratch.tool(qemuImg as string, "convert", ...compression, ...settings, "-O", format, "state0.raw", file);
    }
  });
}

const BLOCK_BYTES = 65_536;

/** Writes into an overlay what its state of the file system has changed. */
function writeDifferences(scratch: Scratch, overlay: { file: string; depth: number; compressed: boolean }): void {
  const { file, depth, compressed } = overlay;
  const old = readFileSync(scratch.path(`state${depth - 1}.raw`));
  const now = readFileSync(scratch.path(`state${depth}.raw`));
  const commands: string[] = [];
  for (let at = 0; at < now.length; at += BLOCK_BYTES) {
    const block = now.subarray(at, at + BLOCK_BYTES);
    if (block.equals(old.subarray(at, at + BLOCK_BYTES))) continue;
    writeFileSync(scratch.path(`block${at}`), block);
    commands.push("-c", `write ${compressed ? "-c " : ""}-s block${at} ${at} ${BLOCK_BYTES}`);
  }
  scratch.tool(qemuIo as string, "-f", "qcow2", ...commands, file);
}

/** Which layers the map of a chain shows. */
function depthsOf(scratch: Scratch, file: string): number[] {
  const map = JSON.parse(scratch.tool(qemuImg as string, "map", "--output=json", file)) as MapEntry[];
  return [...new Set(map.filter(({ data }) => data).map(({ depth }) => depth))].sort();
}

interface MapEntry {
  readonly depth: number;
  readonly data: boolean;
}

/** Kills the program some milliseconds after it has told that it has begun. */
function killAfter(child: ChildProcess, delayMs: number): void {
  child.stdout?.once("data", () => setTimeout(() => child.kill("SIGKILL"), delayMs));
}

describe.skipIf(missing)(`streams that are killed ${KILLS} times`, () => {
  test.each(CHAINS.map((chain) => [chain.name, chain] as const))(
    "%s",
    async (_name, chain) => {
      using scratch = new Scratch();
      makeFileSystems(scratch);
      makeChain(scratch, chain);
      const top = chain.layers[2].file;
      expect(depthsOf(scratch, top)).toEqual([0, 1, 2]);
      scratch.tool(qemuImg as string, "compare", top, "state2.raw");
      const random = new SeededRandom(7);
      const check = () => spawnSync(qemuImg as string, ["check", top], { cwd: scratch.folder, encoding: "utf8" });
      let killed = 0;
      for (let round = 0; round < KILLS; round++) {
        // Slow enough that most kills hit in the middle; a stream that has got to its end has nothing left to kill.
        const argv = ["stream", "--progress=json", "--speed", "24M", "--workers", String(random.below(3)), top];
        const delayMs = random.below(KILLS > 3 ? 60 : 300);
        const outcome = await spindle(argv, {
          cwd: scratch.folder,
          started: (child) => killAfter(child, delayMs),
        });
        if (outcome.code === null) killed += 1;
        const { status, stdout, stderr } = check();
        // 3 says that clusters have leaked, and nothing else.
        expect([0, 3], `round ${round}: ${stdout}${stderr}`).toContain(status);
        scratch.tool(qemuImg as string, "compare", top, "state2.raw");
      }
      expect(killed).toBeGreaterThan(0);

      const last = await spindle(["stream", top], { cwd: scratch.folder });
      expect(last).toEqual({ code: 0, stdout: "", stderr: "" });
      scratch.tool("rm", chain.layers[0].file, chain.layers[1].file);
      expect(check()).toMatchObject({ status: 0 });
      scratch.tool(qemuImg as string, "compare", top, "state2.raw");
      scratch.tool(qemuImg as string, "convert", "-O", "raw", top, "after.raw");
      scratch.tool(e2fsck as string, "-fn", "after.raw");
      scratch.tool(debugfs as string, "-R", "dump more2 read", "after.raw");
      scratch.tool("cmp", "read", "more");
      const { "backing-filename": backing } = JSON.parse(
        scratch.tool(qemuImg as string, "info", "--output=json", top),
      ) as Record<string, unknown>;
      expect(backing).toBeUndefined();
    },
    KILLS * 10_000 + 60_000,
  );
});
