/**
 * What a guest gets: random requests of 4 KiB through a virtqueue, served by a thread for each queue, alone and while
 * the image is being streamed. To compare, QEMU's block layer under the same requests, without guest or virtqueue.
 */
import { setTimeout as pause } from "node:timers/promises";
import { GiB, KiB, MiB } from "@spindle/base";
import { type BlockNode, IoVector, PortServer } from "@spindle/block";
import { startStream } from "@spindle/jobs";
import { peer } from "@spindle/testkit/peers";
import { Session } from "spindle";
import { type Bench, type BenchContext, scaled } from "./bench.ts";
import { type GuestOperation, REQUEST_BYTES } from "./guest-io-protocol.ts";
import { GuestRig, type PhaseFigures } from "./guest-rig.ts";
import { createOverlay, imageFile } from "./images.ts";
import { qemuImgBench } from "./peers/qemu-img-bench.ts";
import { Scratch, writeRandomFile } from "./scratch.ts";
import { type Cell, cell, type Row, ratioCell, type Table } from "./table.ts";

/** The guests work in this much of the disk; all of it is allocated in the image before anything is measured. */
const WORKING_SET = 64 * MiB;
const COPY_WORKERS = 2;

interface Situation {
  readonly format: "raw" | "qcow2";
  readonly operation: GuestOperation;
  readonly depth: number;
  readonly guests: number;
}

const SITUATIONS: readonly Situation[] = (["raw", "qcow2"] as const).flatMap((format) =>
  (["read", "write"] as const).flatMap((operation) =>
    [1, 32].flatMap((depth) => [1, 2].map((guests) => ({ format, operation, depth, guests }))),
  ),
);

const EVERY_WAY_ONCE: readonly Situation[] = [
  { format: "raw", operation: "read", depth: 1, guests: 1 },
  { format: "qcow2", operation: "write", depth: 32, guests: 2 },
];

export const guestIoBench: Bench = {
  name: "guest-io",
  about: "guest requests of 4 KiB through virtqueues, alone and during a stream",
  async run(context: BenchContext): Promise<Table[]> {
    using scratch = new Scratch();
    const length = scaled(context, { full: 2 * GiB, quick: 512 * MiB, shape: WORKING_SET });
    writeRandomFile(scratch.path("base.raw"), length);
    const rows: Row[] = [];
    const situations = scaled(context, { full: SITUATIONS, quick: SITUATIONS, shape: EVERY_WAY_ONCE });
    for (const situation of situations) rows.push(await measure(context, scratch, situation, length));
    return [guestTable(rows)];
  },
};

async function measure(context: BenchContext, scratch: Scratch, situation: Situation, length: number): Promise<Row> {
  const { format, operation, depth, guests } = situation;
  const label = `${format}, ${operation}, depth ${depth}, ${guests === 1 ? "1 guest" : `${guests} guests`}`;
  context.progress(`  ${label}`);
  const image = scratch.path(`disk.${format}`);
  if (format === "qcow2") await createOverlay(image, length);
  else writeRandomFile(image, WORKING_SET);
  try {
    const { alone, streaming } = await measureOurs(context, situation, image, scratch.path("base.raw"));
    const theirs = guests === 1 ? await measureQemu(context, situation, image) : undefined;
    const times = theirs && ratioCell([alone.requestsPerSecond / 1_000], [theirs.median]);
    return { label, cells: [...figures(alone), ...figures(streaming), theirs, times] };
  } finally {
    scratch.remove(`disk.${format}`);
  }
}

interface OurFigures {
  readonly alone: PhaseFigures;
  /** Raw images have no backing file, and cannot be streamed into. */
  readonly streaming: PhaseFigures | undefined;
}

async function measureOurs(
  context: BenchContext,
  situation: Situation,
  image: string,
  base: string,
): Promise<OurFigures> {
  const seconds = scaled(context, { full: 2, quick: 0.3, shape: 0.02 });
  const { format } = situation;
  await using session = new Session();
  const backing = format === "qcow2" ? { backing: imageFile("raw", base) } : {};
  const node = await session.run(session.graph.open({ ...imageFile(format, image), ...backing }));
  if (format === "qcow2") await allocateWorkingSet(session, node);
  const server = new PortServer(node, session.thread, session.runner);
  const rig = await GuestRig.start({
    ...situation,
    threads: session.threads,
    openPort: () => server.open(),
    run: (co) => session.run(co),
    workingSet: WORKING_SET,
    diskLength: node.length,
  });
  await rig.measure("warm-up", () => pause(seconds * 500));
  const alone = await rig.measure("alone", () => pause(seconds * 1_000));
  const streaming = format === "qcow2" ? await rig.measure("streaming", () => stream(session, node)) : undefined;
  await rig.stop();
  await session.run(server.close());
  return { alone, streaming };
}

/** Makes the clusters of the working set the image's own: what is measured then changes no metadata. */
async function allocateWorkingSet(session: Session, node: BlockNode): Promise<void> {
  const piece = new Uint8Array(512 * KiB).fill(1);
  for (let offset = 0; offset < WORKING_SET; offset += piece.length)
    await session.run(node.write(offset, IoVector.of(piece)));
}

async function stream(session: Session, node: BlockNode): Promise<void> {
  const { graph, jobs } = session;
  const context = { graph, jobs, createCopier: session.copiers(COPY_WORKERS) };
  const job = await session.run(startStream(context, { jobId: "stream", node }));
  await session.run(job.ended());
  if (job.failure !== undefined) throw job.failure;
}

async function measureQemu(context: BenchContext, situation: Situation, image: string): Promise<Cell> {
  const program = peer("qemu-img");
  if (program === undefined) return undefined;
  const requests = scaled(context, { full: 50_000, quick: 10_000, shape: 100 });
  const rounds = scaled(context, { full: 3, quick: 1, shape: 1 });
  const rates: number[] = [];
  for (let round = 0; round < rounds; round++)
    rates.push(await qemuImgBench(program, { ...situation, image, requests, requestBytes: REQUEST_BYTES }));
  return cell(rates.map((rate) => rate / 1_000));
}

function figures(phase: PhaseFigures | undefined): Cell[] {
  if (phase === undefined) return [undefined, undefined, undefined];
  const { requestsPerSecond, p50Ms, p99Ms } = phase;
  return [cell([requestsPerSecond / 1_000]), cell([p50Ms * 1_000]), cell([p99Ms * 1_000])];
}

function guestTable(rows: readonly Row[]): Table {
  const rate = { unit: "kIOPS", plotted: true };
  return {
    name: "guest-io",
    title: "Guest requests of 4 KiB at random, through virtqueues",
    arguments: "guest-io",
    columns: [
      { title: "alone", ...rate },
      { title: "p50", unit: "us" },
      { title: "p99", unit: "us" },
      { title: "during a stream", ...rate },
      { title: "p50", unit: "us" },
      { title: "p99", unit: "us" },
      { title: "qemu-img bench", ...rate },
      { title: "alone, times qemu-img bench", unit: "" },
    ],
    rows,
    notes: [
      `The guests work in ${WORKING_SET / MiB} MiB that the image has already; the stream copies the rest with ` +
        `${COPY_WORKERS} workers. Every guest and every queue has a thread of its own.`,
      "qemu-img bench is QEMU's block layer alone, without guest, virtqueue or another thread than its own pool's.",
    ],
  };
}
