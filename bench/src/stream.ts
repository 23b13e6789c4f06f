/**
 * Streaming as fast as the machine can: a full base in memory, an empty qcow2 overlay, no guest. Ours, QEMU's
 * block-stream, cp, and two threads that only read and write the same bytes take turns.
 */
import { GiB, MiB } from "@spindle/base";
import { peer } from "@spindle/testkit/peers";
import { bareCopy } from "./bare-copy.ts";
import { type Bench, type BenchContext, inTurn, measuresBuild, scaled } from "./bench.ts";
import { holdMemory } from "./held-memory.ts";
import { createOverlay, createQcow2From, imageFile } from "./images.ts";
import { copyFileWith } from "./peers/copy-file.ts";
import { QemuStorageDaemon } from "./peers/qemu-storage-daemon.ts";
import { Scratch, writeRandomFile } from "./scratch.ts";
import { streamInProcess } from "./stream-process.ts";
import { cell, type Row, ratioCell, type Table } from "./table.ts";

const WORKERS = 2;
const FORMATS = ["raw", "qcow2"] as const;

/** What issue and users expect of a stream without a guest. */
const TIMES_QEMU = { atLeast: 3.5 };
const TIMES_COPY = { atLeast: 1 };

export const streamBench: Bench = {
  name: "stream",
  about: "a stream of 2 GiB in memory against qemu-storage-daemon and cp",
  async run(context: BenchContext): Promise<Table[]> {
    using scratch = new Scratch();
    const length = scaled(context, { full: 2 * GiB, quick: 512 * MiB, shape: 8 * MiB });
    writeRandomFile(scratch.path("base.raw"), length);
    await createQcow2From(scratch.path("base.raw"), scratch.path("base.qcow2"), length);
    // Each contender's file, and a little more: it is removed before the next one's turn.
    holdMemory(scratch, length + length / 8);
    const rows: Row[] = [];
    for (const format of FORMATS) rows.push(await measureFormat(context, scratch, format, length));
    return [streamTable(length, rows)];
  },
};

async function measureFormat(context: BenchContext, scratch: Scratch, format: string, length: number): Promise<Row> {
  const rounds = scaled(context, { full: 7, quick: 3, shape: 1 });
  const below = imageFile(format, scratch.path(`base.${format}`));
  const overlay = scratch.path("overlay.qcow2");
  const rate = (seconds: number): number => length / 1e6 / seconds;
  const whole: number[] = [];
  const daemon = peer("qemu-storage-daemon");
  const cp = peer("cp");
  context.progress(`  ${format} base, ${rounds} rounds`);
  const samples = await inTurn<"ours" | "qemu" | "copy" | "bare">(rounds, {
    ours: async () => {
      await createOverlay(overlay, length);
      const { seconds, wallSeconds } = await streamInProcess(
        { image: overlay, backing: below, workers: WORKERS },
        { built: measuresBuild(context) },
      );
      scratch.remove("overlay.qcow2");
      whole.push(rate(wallSeconds));
      return rate(seconds);
    },
    ...(daemon && {
      qemu: async () => {
        await createOverlay(overlay, length);
        const seconds = await streamWithQemu(daemon, below, overlay);
        scratch.remove("overlay.qcow2");
        return rate(seconds);
      },
    }),
    ...(cp && {
      copy: async () => {
        const seconds = await copyFileWith(cp, scratch.path("base.raw"), scratch.path("copy"));
        scratch.remove("copy");
        return rate(seconds);
      },
    }),
    bare: async () => {
      const seconds = await bareCopy(scratch.path("base.raw"), scratch.path("copy"), length);
      scratch.remove("copy");
      return rate(seconds);
    },
  });
  const { ours, qemu = [], copy = [], bare } = samples;
  const rates = [cell(ours), cell(whole), cell(qemu), cell(copy), cell(bare)];
  const times = [ratioCell(ours, qemu, TIMES_QEMU), ratioCell(ours, copy, TIMES_COPY), ratioCell(bare, qemu)];
  return { label: `${format} base`, cells: [...rates, ...times] };
}

/**
 * Streams a base into an overlay with QEMU's storage daemon.
 * @param base the blockdev of the base
 * @returns seconds from the command to the job's completion
 */
export async function streamWithQemu(program: string, base: object, overlay: string): Promise<number> {
  const daemon = await QemuStorageDaemon.start(program, [
    { ...base, "node-name": "base", "read-only": true },
    { driver: "qcow2", "node-name": "overlay", backing: "base", file: { driver: "file", filename: overlay } },
  ]);
  const seconds = await daemon.stream("overlay");
  await daemon.quit();
  return seconds;
}

function streamTable(length: number, rows: readonly Row[]): Table {
  const unit = "MB/s";
  return {
    name: "stream",
    title: `Stream of ${length / MiB} MiB into an empty qcow2 overlay, in memory, no guest`,
    arguments: "stream",
    columns: [
      { title: `spindle, ${WORKERS} workers`, unit, plotted: true },
      { title: "its whole process", unit },
      { title: "qemu-storage-daemon", unit, plotted: true },
      { title: "cp", unit, plotted: true },
      { title: "two bare threads", unit, plotted: true },
      { title: "times QEMU", unit: "" },
      { title: "times cp", unit: "" },
      { title: "bare threads, times QEMU", unit: "" },
    ],
    rows,
    notes: [
      "Medians of the rounds, in parentheses the slowest and the fastest; the ratios are taken round by round.",
      "The bare threads read and write pieces of 1 MiB and do nothing else: no format, no locks, no owner.",
    ],
  };
}
