/**
 * The memory that a stream takes when the disk is huge and nearly empty: 1 TiB with some MiB of data spread over it.
 * What must not happen is that it grows with the disk.
 */
import { KiB, MiB, TiB } from "@spindle/base";
import { type Bench, type BenchContext, measuresBuild, scaled } from "./bench.ts";
import { createOverlay, createQcow2From, imageFile } from "./images.ts";
import { Scratch, writeRandomRanges } from "./scratch.ts";
import { streamInProcess } from "./stream-process.ts";
import { cell, type Row, type Table } from "./table.ts";

const DISK_BYTES = TiB;
const ISLAND_BYTES = 64 * KiB;
const WORKERS = 2;
const MEMORY = { atMost: 200 };

export const memoryBench: Bench = {
  name: "memory",
  about: "memory of a stream of a sparse image of 1 TiB",
  async run(context: BenchContext): Promise<Table[]> {
    using scratch = new Scratch();
    const islands = scaled(context, { full: 512, quick: 128, shape: 4 });
    const ranges = Array.from({ length: islands }, (_, at) => ({
      offset: at * (DISK_BYTES / islands),
      length: ISLAND_BYTES,
    }));
    writeRandomRanges(scratch.path("base.raw"), DISK_BYTES, ranges);
    await createQcow2From(scratch.path("base.raw"), scratch.path("base.qcow2"), DISK_BYTES);
    const rows: Row[] = [];
    for (const format of ["raw", "qcow2"]) rows.push(await measure(context, scratch, format));
    return [memoryTable(islands, rows)];
  },
};

async function measure(context: BenchContext, scratch: Scratch, format: string): Promise<Row> {
  context.progress(`  ${format} base`);
  const overlay = scratch.path("overlay.qcow2");
  const backing = imageFile(format, scratch.path(`base.${format}`));
  await createOverlay(overlay, DISK_BYTES);
  const { peakMemory, restMemory, seconds } = await streamInProcess(
    { image: overlay, backing, workers: WORKERS },
    { built: measuresBuild(context) },
  );
  scratch.remove("overlay.qcow2");
  return {
    label: `${format} base`,
    cells: [cell([peakMemory / MiB], MEMORY), cell([restMemory / MiB]), cell([seconds])],
  };
}

function memoryTable(islands: number, rows: readonly Row[]): Table {
  return {
    name: "memory",
    title: `Memory of a stream of 1 TiB that holds ${(islands * ISLAND_BYTES) / MiB} MiB`,
    arguments: "memory",
    columns: [
      { title: "most", unit: "MiB", plotted: true },
      { title: "before the stream", unit: "MiB", plotted: true },
      { title: "stream", unit: "s" },
    ],
    rows,
    notes: [
      "The process's resident memory, VmHWM and VmRSS of /proc/self/status: Node itself, its two workers, and all else.",
    ],
  };
}
