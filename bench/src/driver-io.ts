/**
 * Requests of 4 KiB all over an image, straight to its node and without a device, against `qemu-img bench`: reads of what is
 * there, and writes each of which allocates a cluster. As coroutines on the event loop, and blocking.
 */
import { type Co, join, KiB, MiB, SyncRunner } from "@spindle/base";
import { type BlockNode, IoVector } from "@spindle/block";
import { peer } from "@spindle/testkit/peers";
import { Session } from "spindle";
import { type Bench, type BenchContext, inTurn, scaled } from "./bench.ts";
import { createOverlay, createQcow2From, imageFile } from "./images.ts";
import { qemuImgBench } from "./peers/qemu-img-bench.ts";
import { Scratch, writeRandomFile } from "./scratch.ts";
import { cell, type Row, ratioCell, type Table } from "./table.ts";

const REQUEST_BYTES: number = 4 * KiB;
/** As `qemu-img bench` leaps here. */
const STEP_BYTES: number = 4_099 * REQUEST_BYTES;

interface Load {
  readonly operation: "read" | "write";
  readonly depth: number;
  readonly length: number;
  readonly requests: number;
}

export const driverIoBench: Bench = {
  name: "driver-io",
  about: "requests to a qcow2 node, as coroutines and blocking, against qemu-img bench",
  async run(context: BenchContext): Promise<Table[]> {
    using scratch = new Scratch();
    const length = scaled(context, { full: 1024 * MiB, quick: 256 * MiB, shape: 2 * MiB });
    writeRandomFile(scratch.path("full.raw"), length);
    await createQcow2From(scratch.path("full.raw"), scratch.path("full.qcow2"), length);
    scratch.remove("full.raw");
    const reads = scaled(context, { full: 100_000, quick: 20_000, shape: 16 });
    // So many leaps meet so many clusters of 64 KiB for the first time.
    const writes = length / (64 * KiB);
    const rows: Row[] = [];
    for (const depth of [1, 64]) {
      rows.push(await measure(context, scratch, { operation: "read", depth, length, requests: reads }));
      rows.push(await measure(context, scratch, { operation: "write", depth, length, requests: writes }));
    }
    return [driverIoTable(length, rows)];
  },
};

async function measure(context: BenchContext, scratch: Scratch, load: Load): Promise<Row> {
  const { operation, depth, requests } = load;
  const rounds = scaled(context, { full: 5, quick: 3, shape: 1 });
  const label = operation === "read" ? `read, depth ${depth}` : `allocating write, depth ${depth}`;
  const qemuImg = peer("qemu-img");
  context.progress(`  ${label}, ${rounds} rounds`);
  const thousands = async (serve: (image: string) => Promise<number>): Promise<number> => {
    if (operation === "read") return (await serve(scratch.path("full.qcow2"))) / 1_000;
    await createOverlay(scratch.path("empty.qcow2"), load.length);
    const rate = await serve(scratch.path("empty.qcow2"));
    scratch.remove("empty.qcow2");
    return rate / 1_000;
  };
  const program = { format: "qcow2", operation, depth, requests, requestBytes: REQUEST_BYTES } as const;
  const {
    co,
    sync,
    qemu = [],
  } = await inTurn<"co" | "sync" | "qemu">(rounds, {
    co: () => thousands((image) => serveHere(image, load, "co")),
    sync: () => thousands((image) => serveHere(image, load, "sync")),
    ...(qemuImg && { qemu: () => thousands((image) => qemuImgBench(qemuImg, { image, ...program })) }),
  });
  return { label, cells: [cell(co), cell(sync), cell(qemu), ratioCell(co, qemu), ratioCell(sync, qemu)] };
}

/** @returns requests a second */
async function serveHere(image: string, load: Load, way: "co" | "sync"): Promise<number> {
  await using session = new Session();
  const node = await session.run(session.graph.open(imageFile("qcow2", image)));
  const begin = performance.now();
  if (way === "co") await session.run(serve(node, load));
  else new SyncRunner(session.environment.clock, session.thread).run(serve(node, load));
  return (load.requests * 1_000) / (performance.now() - begin);
}

function serve(node: BlockNode, { operation, depth, length, requests }: Load): Co<unknown> {
  let begun = 0;
  const lane = function* (): Co<void> {
    const vector = IoVector.of(new Uint8Array(REQUEST_BYTES).fill(165));
    while (begun < requests) {
      const offset = (begun * STEP_BYTES) % length;
      begun += 1;
      if (operation === "read") yield* node.read(offset, vector);
      else yield* node.write(offset, vector);
    }
  };
  return join(Array.from({ length: depth }, lane));
}

function driverIoTable(length: number, rows: readonly Row[]): Table {
  const unit = "kIOPS";
  return {
    name: "driver-io",
    title: `Requests of 4 KiB all over a qcow2 image of ${length / MiB} MiB in memory, without a device`,
    arguments: "driver-io",
    columns: [
      { title: "coroutines", unit, plotted: true },
      { title: "blocking", unit, plotted: true },
      { title: "qemu-img bench", unit, plotted: true },
      { title: "coroutines, times qemu-img bench", unit: "" },
      { title: "blocking, times qemu-img bench", unit: "" },
    ],
    rows,
    notes: ["Writes go to an empty image, each to a cluster that is not there yet."],
  };
}
