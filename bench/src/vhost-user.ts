/**
 * A disk served to a virtual machine over vhost-user, by us and by QEMU's storage daemon: one driver on the other side of the
 * socket, in turn.
 */
import { copyFileSync, rmSync } from "node:fs";
import { KiB, MiB } from "@spindle/base";
import { peer } from "@spindle/testkit/peers";
import { type Bench, type BenchContext, measuresBuild, scaled } from "./bench.ts";
import { createQcow2From } from "./images.ts";
import { Scratch, writeRandomFile } from "./scratch.ts";
import { type Cell, cell, type Row, ratioCell, type Table, type Target } from "./table.ts";
import type { DriverReport } from "./vhost-user-protocol.ts";
import { type BackEnd, DriverThread, type ServedImage, serveOurs, serveTheirs } from "./vhost-user-servers.ts";

/** All of the disk, and allocated in the image before anything is measured. */
const WORKING_SET = 64 * MiB;

type Access = "random" | "polled" | "sequential" | "direct";

interface Situation {
  readonly format: "raw" | "qcow2";
  readonly operation: "read" | "write";
  /** `polled`: at random, by a driver that does not sleep. `direct`: at random, past the page cache of a file system on disk. */
  readonly access: Access;
  readonly queues: number;
  readonly depth: number;
}

/** Once for each back end, before the first round: until its code is compiled. */
const WARM_UP_SECONDS = 1;

const SHAPES: readonly Pick<Situation, "access" | "queues" | "depth">[] = [
  { access: "random", queues: 1, depth: 1 },
  { access: "polled", queues: 1, depth: 1 },
  { access: "random", queues: 1, depth: 32 },
  { access: "random", queues: 2, depth: 16 },
  { access: "sequential", queues: 1, depth: 4 },
  { access: "direct", queues: 1, depth: 32 },
];

const SITUATIONS: readonly Situation[] = (["raw", "qcow2"] as const).flatMap((format) =>
  (["read", "write"] as const).flatMap((operation) => SHAPES.map((shape) => ({ format, operation, ...shape }))),
);

const EVERY_WAY_ONCE: readonly Situation[] = [
  { format: "raw", operation: "read", access: "direct", queues: 1, depth: 32 },
  { format: "qcow2", operation: "write", access: "random", queues: 2, depth: 16 },
];

const CONTENDERS = ["ours", "threads", "io_uring"] as const;
type Contender = (typeof CONTENDERS)[number];

interface Rig {
  readonly memory: Scratch;
  readonly disk: Scratch;
  readonly driver: DriverThread;
}

export const vhostUserBench: Bench = {
  name: "vhost-user",
  about: "a disk over vhost-user, beside qemu-storage-daemon's",
  async run(context: BenchContext): Promise<Table[]> {
    using memory = new Scratch();
    using disk = new Scratch("disk");
    await using driver = new DriverThread();
    writeRandomFile(memory.path("disk.raw"), WORKING_SET);
    await createQcow2From(memory.path("disk.raw"), memory.path("disk.qcow2"), WORKING_SET);
    for (const place of [memory, disk])
      for (const contender of CONTENDERS)
        for (const format of ["raw", "qcow2"])
          copyFileSync(memory.path(`disk.${format}`), place.path(`${contender}.${format}`));
    const rows: Row[] = [];
    const situations = scaled(context, { full: SITUATIONS, quick: SITUATIONS, shape: EVERY_WAY_ONCE });
    for (const situation of situations) rows.push(await measure(context, { memory, disk, driver }, situation));
    return [tableOf(rows)];
  },
};

async function measure(context: BenchContext, { memory, disk, driver }: Rig, situation: Situation): Promise<Row> {
  const { format, operation, access, queues, depth } = situation;
  const size = access === "sequential" ? "1 MiB" : "4 KiB";
  const label = `${format}, ${operation}, ${access}, ${size}, ${queues === 1 ? "1 queue" : `${queues} queues`}, depth ${depth}`;
  context.progress(`  ${label}`);
  const rounds = scaled(context, { full: 3, quick: 1, shape: 1 });
  const seconds = scaled(context, { full: 1, quick: 0.25, shape: 0.05 });
  const direct = access === "direct";
  const work = {
    ...{ queues, depth, operation, workingSet: WORKING_SET, seconds },
    requestBytes: access === "sequential" ? MiB : 4 * KiB,
    sequential: access === "sequential",
    polled: access === "polled",
  };
  const reports: Record<Contender, DriverReport[]> = { ours: [], threads: [], io_uring: [] };
  const served: { contender: Contender; path: string; backEnd: BackEnd }[] = [];
  try {
    for (const contender of CONTENDERS) {
      const path = memory.path(`${contender}.socket`);
      const filename = (direct ? disk : memory).path(`${contender}.${format}`);
      const backEnd = await serve(
        contender,
        { filename, format, direct, queues, socket: path },
        measuresBuild(context),
      );
      if (backEnd !== undefined) served.push({ contender, path, backEnd });
    }
    const warmUp = scaled(context, { full: WARM_UP_SECONDS, quick: seconds, shape: 0 });
    for (const { path } of served) if (warmUp > 0) await driver.drive({ ...work, path, seconds: warmUp });
    // Everybody in every round, so that what disturbs the machine for a while disturbs everybody.
    for (let round = 0; round < rounds; round++)
      for (const { contender, path } of served) reports[contender].push(await driver.drive({ ...work, path }));
  } finally {
    for (const { path, backEnd } of served) {
      await backEnd.stop();
      rmSync(path, { force: true });
    }
  }
  return { label, cells: cellsOf(situation, reports) };
}

/** @returns undefined when the contender is not installed. */
async function serve(contender: Contender, image: ServedImage, built: boolean): Promise<BackEnd | undefined> {
  if (contender === "ours") return await serveOurs(image, built);
  const program = peer("qemu-storage-daemon");
  return program === undefined ? undefined : await serveTheirs(program, image, contender);
}

interface Targets {
  readonly threads?: Target;
  readonly ring?: Target;
  readonly p50?: Target;
}

function targetsOf({ access, operation, queues, depth }: Situation): Targets {
  if (access === "polled") return { p50: { atMost: 0.5 } };
  if (access === "sequential") return { threads: { atLeast: 1 }, ring: { atLeast: 1 } };
  if (access === "direct") return { ring: { atLeast: 1 } };
  if (depth === 1) return {};
  if (operation === "write") return { threads: { atLeast: 2 }, ring: { atLeast: 2 } };
  return { ring: { atLeast: queues === 1 ? 1 : 1.5 } };
}

function cellsOf(situation: Situation, { ours, threads, io_uring }: Record<Contender, DriverReport[]>): Cell[] {
  const rates = (reports: readonly DriverReport[]): number[] => reports.map(({ kiops }) => kiops);
  const medians = (reports: readonly DriverReport[]): number[] => reports.map(({ p50Us }) => p50Us);
  const figures = (reports: readonly DriverReport[]): Cell[] => [
    cell(rates(reports)),
    cell(medians(reports)),
    cell(reports.map(({ p99Us }) => p99Us)),
  ];
  const targets = targetsOf(situation);
  const theirBest = threads.map(({ p50Us }, round) => Math.min(p50Us, io_uring[round]?.p50Us ?? p50Us));
  return [
    ...figures(ours),
    ...figures(threads),
    ...figures(io_uring),
    ratioCell(rates(ours), rates(threads), targets.threads),
    ratioCell(rates(ours), rates(io_uring), targets.ring),
    ratioCell(medians(ours), theirBest, targets.p50),
  ];
}

function tableOf(rows: readonly Row[]): Table {
  const columns = ["ours", "QEMU, threads", "QEMU, io_uring"].flatMap((title) => [
    { title, unit: "kIOPS", plotted: true },
    { title: "p50", unit: "us" },
    { title: "p99", unit: "us" },
  ]);
  const ratios = ["times threads", "times io_uring", "p50, of QEMU's best"].map((title) => ({ title, unit: "" }));
  return {
    name: "vhost-user",
    title: "A disk over vhost-user",
    arguments: "vhost-user",
    columns: [...columns, ...ratios],
    rows,
    notes: [
      `The driver is ours for everybody: one thread, on ${WORKING_SET / MiB} MiB that the image has already; depth is that of ` +
        "each queue. It sleeps until it is interrupted, but where it says polled. Images stand in memory, but where it says " +
        "direct: there on a disk, and past the page cache.",
      "QEMU is qemu-storage-daemon with its vhost-user-blk export in one iothread; ours is spindle serve as it is by default.",
    ],
  };
}
