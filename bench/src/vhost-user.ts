/**
 * A disk served to a virtual machine over vhost-user, by us and by QEMU's storage daemon: one driver on the other side of the
 * socket, in turn.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { MiB } from "@spindle/base";
import { peer } from "@spindle/testkit/peers";
import { type Bench, type BenchContext, measuresBuild, scaled } from "./bench.ts";
import { createQcow2From } from "./images.ts";
import { QemuStorageDaemon } from "./peers/qemu-storage-daemon.ts";
import { Scratch, writeRandomFile } from "./scratch.ts";
import { type Cell, cell, type Row, ratioCell, type Table, type Target } from "./table.ts";
import type { DriverReport, DriverWork } from "./vhost-user-protocol.ts";

/** All of the disk, and allocated in the image before anything is measured. */
const WORKING_SET = 64 * MiB;

interface Situation {
  readonly format: "raw" | "qcow2";
  readonly operation: "read" | "write";
  readonly queues: number;
  readonly depth: number;
}

const SITUATIONS: readonly Situation[] = (["raw", "qcow2"] as const).flatMap((format) =>
  (["read", "write"] as const).flatMap((operation) => [
    { format, operation, queues: 1, depth: 1 },
    { format, operation, queues: 1, depth: 32 },
    { format, operation, queues: 2, depth: 16 },
  ]),
);

const EVERY_WAY_ONCE: readonly Situation[] = [
  { format: "raw", operation: "read", queues: 1, depth: 1 },
  { format: "qcow2", operation: "write", queues: 2, depth: 16 },
];

const CONTENDERS = ["ours", "threads", "io_uring"] as const;
type Contender = (typeof CONTENDERS)[number];

export const vhostUserBench: Bench = {
  name: "vhost-user",
  about: "requests of 4 KiB over vhost-user, beside qemu-storage-daemon",
  async run(context: BenchContext): Promise<Table[]> {
    using scratch = new Scratch();
    writeRandomFile(scratch.path("disk.raw"), WORKING_SET);
    await createQcow2From(scratch.path("disk.raw"), scratch.path("disk.qcow2"), WORKING_SET);
    const rows: Row[] = [];
    const situations = scaled(context, { full: SITUATIONS, quick: SITUATIONS, shape: EVERY_WAY_ONCE });
    for (const situation of situations) rows.push(await measure(context, scratch, situation));
    return [tableOf(rows)];
  },
};

async function measure(context: BenchContext, scratch: Scratch, situation: Situation): Promise<Row> {
  const { format, operation, queues, depth } = situation;
  const label = `${format}, ${operation}, ${queues === 1 ? "1 queue" : `${queues} queues`}, depth ${depth}`;
  context.progress(`  ${label}`);
  const rounds = scaled(context, { full: 5, quick: 1, shape: 1 });
  const seconds = scaled(context, { full: 1, quick: 0.4, shape: 0.05 });
  const program = peer("qemu-storage-daemon");
  const reports: Record<Contender, DriverReport[]> = { ours: [], threads: [], io_uring: [] };
  // Everybody in every round, so that what disturbs the machine for a while disturbs everybody.
  for (let round = 0; round < rounds; round++)
    for (const contender of CONTENDERS) {
      if (contender !== "ours" && program === undefined) continue;
      const served =
        contender === "ours"
          ? await serveOurs(context, scratch, situation)
          : await serveTheirs(program as string, scratch, situation, contender);
      try {
        const work = { path: scratch.path("socket"), queues, depth, operation, workingSet: WORKING_SET, seconds };
        reports[contender].push(await drive(work));
      } finally {
        await served.stop();
      }
    }
  return { label, cells: cellsOf(situation, reports) };
}

interface Served {
  stop(): Promise<void>;
}

async function serveOurs(context: BenchContext, scratch: Scratch, { format, queues }: Situation): Promise<Served> {
  const built = measuresBuild(context);
  const script = fileURLToPath(
    new URL(`../../tools/spindle/${built ? "bin/spindle.cjs" : "src/main.ts"}`, import.meta.url),
  );
  const node = built ? [] : ["--conditions=spindle-source", "--disable-warning=ExperimentalWarning"];
  const argv = ["serve", scratch.path(`disk.${format}`), "-f", format, "--queues", `${queues}`];
  const child: ChildProcess = spawn(
    process.execPath,
    [...node, script, ...argv, "--vhost-user", scratch.path("socket")],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  await once(child.stdout as NodeJS.ReadableStream, "data");
  return {
    async stop() {
      const exit = once(child, "exit");
      child.kill("SIGTERM");
      await exit;
    },
  };
}

async function serveTheirs(
  program: string,
  scratch: Scratch,
  { format, queues }: Situation,
  aio: "threads" | "io_uring",
): Promise<Served> {
  const file = { driver: "file", filename: scratch.path(`disk.${format}`), aio };
  const daemon = await QemuStorageDaemon.start(program, [{ driver: format, "node-name": "disk", file }]);
  await daemon.execute("object-add", { "qom-type": "iothread", id: "thread" });
  await daemon.execute("block-export-add", {
    ...{ type: "vhost-user-blk", id: "export", "node-name": "disk", writable: true, iothread: "thread" },
    ...{ addr: { type: "unix", path: scratch.path("socket") }, "num-queues": queues },
  });
  return {
    async stop() {
      await daemon.kill();
      scratch.remove("socket");
    },
  };
}

function drive(work: DriverWork): Promise<DriverReport> {
  const worker = new Worker(new URL("./vhost-user-driver-worker.ts", import.meta.url), {
    workerData: work,
    execArgv: ["--conditions=spindle-source", "--disable-warning=ExperimentalWarning"],
  });
  return new Promise((resolve, reject) => {
    worker.once("message", resolve);
    worker.once("error", reject);
    worker.once("exit", () => reject(new Error("the driver ended without a report")));
  });
}

/** What is expected of the ratios to threads and to io_uring. */
function targetsOf({ operation, queues, depth }: Situation): readonly [Target | undefined, Target | undefined] {
  if (depth === 1) return [undefined, undefined];
  if (operation === "write") return [{ atLeast: 2 }, { atLeast: 2 }];
  return [undefined, { atLeast: queues === 1 ? 1 : 1.5 }];
}

function cellsOf(situation: Situation, { ours, threads, io_uring }: Record<Contender, DriverReport[]>): Cell[] {
  const rates = (reports: readonly DriverReport[]): number[] => reports.map(({ kiops }) => kiops);
  const figures = (reports: readonly DriverReport[]): Cell[] => [
    cell(rates(reports)),
    cell(reports.map(({ p50Us }) => p50Us)),
    cell(reports.map(({ p99Us }) => p99Us)),
  ];
  const [toThreads, toRing] = targetsOf(situation);
  return [
    ...figures(ours),
    ...figures(threads),
    ...figures(io_uring),
    ratioCell(rates(ours), rates(threads), toThreads),
    ratioCell(rates(ours), rates(io_uring), toRing),
  ];
}

function tableOf(rows: readonly Row[]): Table {
  const columns = ["ours", "QEMU, threads", "QEMU, io_uring"].flatMap((title) => [
    { title, unit: "kIOPS", plotted: true },
    { title: "p50", unit: "us" },
    { title: "p99", unit: "us" },
  ]);
  return {
    name: "vhost-user",
    title: "Requests of 4 KiB at random over vhost-user",
    arguments: "vhost-user",
    columns: [...columns, { title: "times threads", unit: "" }, { title: "times io_uring", unit: "" }],
    rows,
    notes: [
      `The driver is ours for everybody: one thread, with interrupts, on ${WORKING_SET / MiB} MiB in memory that the image ` +
        "has already. Depth is that of each queue.",
      "QEMU is qemu-storage-daemon with its vhost-user-blk export in one iothread; ours is spindle serve as it is by default.",
    ],
  };
}
