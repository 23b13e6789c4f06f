/** `check` and `map` of an image of 1 TiB with a million allocated clusters, each by itself, against qemu-img. */
import { truncateSync } from "node:fs";
import { type Co, KiB, MiB, TiB } from "@spindle/base";
import type { ClusterMap } from "@spindle/block";
import { peer } from "@spindle/testkit/peers";
import { createImage, openChain, Session } from "spindle";
import { type Bench, type BenchContext, inTurn, scaled } from "./bench.ts";
import { type ProgramRun, runProgram, spindleProgram } from "./program.ts";
import { Scratch } from "./scratch.ts";
import { cell, type Row, ratioCell, type Table } from "./table.ts";

const DISK_BYTES = TiB;
const CLUSTER_BYTES: number = 64 * KiB;
const MEMORY = { atMost: 200 };
const TIME = { atMost: 2 };

const KINDS = [
  { label: "check", words: ["check"] },
  { label: "map", words: ["map", "--output=json"] },
] as const;

export const hugeImageBench: Bench = {
  name: "huge-image",
  about: "check and map of an image of 1 TiB with a million clusters",
  async run(context: BenchContext): Promise<Table[]> {
    using scratch = new Scratch();
    const count = scaled(context, { full: 1_000_000, quick: 100_000, shape: 1_000 });
    const image = scratch.path("huge.qcow2");
    context.progress(`  an image with ${count} clusters`);
    await createHugeImage(image, count);
    const rows: Row[] = [];
    for (const { label, words } of KINDS) rows.push(await measure(context, label, [...words, image]));
    return [hugeImageTable(count, rows)];
  },
};

/** Clusters at equal distances over the disk. What they hold are holes of the file: only their metadata is looked at. */
async function createHugeImage(image: string, count: number): Promise<void> {
  await createImage(image, { format: "qcow2", size: DISK_BYTES });
  let end = 0;
  {
    await using session = new Session();
    const node = await session.run(
      openChain(session.graph, { filename: image, format: "qcow2" }, { readOnly: false, noFlush: true }),
    );
    if (node.driver.clusters === undefined) throw new Error("a qcow2 image has no cluster map");
    end = await session.run(allocateClusters(node.driver.clusters, count));
  }
  truncateSync(image, end);
}

/** @returns the end of the last one in the file */
function* allocateClusters(clusters: ClusterMap, count: number): Co<number> {
  const stride = CLUSTER_BYTES * Math.floor(DISK_BYTES / CLUSTER_BYTES / count);
  let end = 0;
  for (let index = 0; index < count; index++) {
    const allocation = yield* clusters.allocate(index * stride, CLUSTER_BYTES);
    yield* clusters.publish(allocation);
    end = allocation.hostOffset + allocation.length;
  }
  return end;
}

async function measure(context: BenchContext, label: string, argv: readonly string[]): Promise<Row> {
  const rounds = scaled(context, { full: 3, quick: 1, shape: 1 });
  const qemuImg = peer("qemu-img");
  context.progress(`  ${label}, ${rounds} rounds`);
  let most = 0;
  const timed = async (run: Promise<ProgramRun>): Promise<number> => {
    const { seconds, peakMemory } = await run;
    most = Math.max(most, peakMemory);
    return seconds;
  };
  const { ours, qemu = [] } = await inTurn<"ours" | "qemu">(rounds, {
    ours: () => timed(runProgram([...spindleProgram(context), ...argv])),
    ...(qemuImg && { qemu: async () => (await runProgram([qemuImg, ...argv])).seconds }),
  });
  return { label, cells: [cell(ours), cell(qemu), ratioCell(ours, qemu, TIME), cell([most / MiB], MEMORY)] };
}

function hugeImageTable(count: number, rows: readonly Row[]): Table {
  return {
    name: "huge-image",
    title: `A qcow2 image of 1 TiB with ${count} clusters, whole processes`,
    arguments: "huge-image",
    columns: [
      { title: "spindle", unit: "s", plotted: true },
      { title: "qemu-img", unit: "s", plotted: true },
      { title: "time, times qemu-img", unit: "" },
      { title: "most memory", unit: "MiB" },
    ],
    rows,
    notes: ["No two clusters are neighbours, so that each is an entry of the map; `map` is `map --output=json`."],
  };
}
