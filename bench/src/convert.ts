/**
 * `convert` as a whole process, in memory, against `qemu-img convert` with its best options: plain copies, and compressed
 * ones of bytes of which half can be compressed. The two take turns.
 */
import { closeSync, openSync, writeSync } from "node:fs";
import { KiB, MiB, SeededRandom } from "@spindle/base";
import { randomBytes } from "@spindle/testkit";
import { peer } from "@spindle/testkit/peers";
import { type Bench, type BenchContext, inTurn, scaled } from "./bench.ts";
import { runProgram, spindleProgram } from "./program.ts";
import { Scratch, writeRandomFile } from "./scratch.ts";
import { cell, type Row, ratioCell, type Table, type Target } from "./table.ts";

interface Kind {
  readonly label: string;
  readonly source: string;
  /** For either program. */
  readonly words: readonly string[];
  readonly target: Target;
}

const COMPRESSED = ["-c", "-W", "-O", "qcow2", "-o"] as const;

const KINDS: readonly Kind[] = [
  { label: "raw to qcow2", source: "random.raw", words: ["-O", "qcow2"], target: { atLeast: 1 } },
  { label: "qcow2 to raw", source: "random.qcow2", words: ["-O", "raw"], target: { atLeast: 1 } },
  { label: "zlib", source: "half.raw", words: [...COMPRESSED, "compression_type=zlib"], target: { atLeast: 1.3 } },
  { label: "zstd", source: "half.raw", words: [...COMPRESSED, "compression_type=zstd"], target: { atLeast: 1 } },
];

export const convertBench: Bench = {
  name: "convert",
  about: "raw to qcow2, back, and compressed, in memory against qemu-img convert",
  async run(context: BenchContext): Promise<Table[]> {
    using scratch = new Scratch();
    const length = scaled(context, { full: 512 * MiB, quick: 128 * MiB, shape: 2 * MiB });
    writeRandomFile(scratch.path("random.raw"), length);
    writeHalfCompressible(scratch.path("half.raw"), length);
    await convertWithSpindle(context, ["-O", "qcow2", scratch.path("random.raw"), scratch.path("random.qcow2")]);
    const rows: Row[] = [];
    for (const kind of KINDS) rows.push(await measure(context, scratch, kind, length));
    return [convertTable(length, rows)];
  },
};

async function measure(context: BenchContext, scratch: Scratch, kind: Kind, length: number): Promise<Row> {
  const rounds = scaled(context, { full: 7, quick: 3, shape: 1 });
  const argv = [...kind.words, scratch.path(kind.source), scratch.path("target")];
  const qemuImg = peer("qemu-img");
  context.progress(`  ${kind.label}, ${rounds} rounds`);
  const timed = async (convert: () => Promise<unknown>): Promise<number> => {
    const begin = performance.now();
    await convert();
    const seconds = (performance.now() - begin) / 1_000;
    scratch.remove("target");
    return length / 1e6 / seconds;
  };
  const { ours, qemu = [] } = await inTurn<"ours" | "qemu">(rounds, {
    ours: () => timed(() => convertWithSpindle(context, argv)),
    ...(qemuImg && { qemu: () => timed(() => runProgram([qemuImg, "convert", ...argv])) }),
  });
  return { label: kind.label, cells: [cell(ours), cell(qemu), ratioCell(ours, qemu, kind.target)] };
}

async function convertWithSpindle(context: BenchContext, argv: readonly string[]): Promise<void> {
  await runProgram([...spindleProgram(context), "convert", ...argv]);
}

/** Every 64 KiB is half random and half a text that repeats itself. */
function writeHalfCompressible(path: string, length: number): void {
  const random = new SeededRandom(1);
  const half = 32 * KiB;
  const piece = Buffer.alloc(2 * MiB, "some text that repeats itself ");
  const descriptor = openSync(path, "w");
  try {
    for (let done = 0; done < length; done += piece.length) {
      for (let at = 0; at < piece.length; at += 2 * half) piece.set(randomBytes(random, half), at);
      writeSync(descriptor, piece);
    }
  } finally {
    closeSync(descriptor);
  }
}

function convertTable(length: number, rows: readonly Row[]): Table {
  const unit = "MB/s";
  return {
    name: "convert",
    title: `Convert ${length / MiB} MiB in memory, whole processes`,
    arguments: "convert",
    columns: [
      { title: "spindle", unit, plotted: true },
      { title: "qemu-img", unit, plotted: true },
      { title: "times qemu-img", unit: "" },
    ],
    rows,
    notes: [
      "The start of the program counts. Compressed copies are written out of order (`-W`); half of their bytes can be compressed.",
    ],
  };
}
