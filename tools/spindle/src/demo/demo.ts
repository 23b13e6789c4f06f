/**
 * `spindle demo`, the main job end to end: a backing image is streamed into an overlay while guests use it, every sector
 * is verified, then the overlay is opened again, now without a backing file, and verified once more.
 */
import { createHash } from "node:crypto";
import { createReadStream, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { BlockError, formatSize } from "@spindle/base";
import { type BlockNode, IoVector } from "@spindle/block";
import type { BlockJobInfo } from "@spindle/jobs";
import { Monitor } from "@spindle/monitor";
import { ownerOf, verifySectors } from "@spindle/workload";
import { createImage, imageInfo, Session } from "spindle";
import { standardOutput } from "../output.ts";
import { createBaseImage } from "./base-image.ts";
import { DemoMachine } from "./demo-machine.ts";
import type { DemoOptions } from "./demo-options.ts";
import { DemoProgress } from "./demo-progress.ts";
import { type DemoResult, demoTable, type PhaseResult } from "./demo-report.ts";
import { PHASES, type Phase } from "./guest-statistics.ts";
import type { BaseImage } from "./guest-thread.ts";
import { QmpClient } from "./qmp-client.ts";

const NODE_NAME = "disk0";
const JOB_ID = "stream0";
const POLL_MS = 200;
const VERIFY_BYTES = 1024 * 1024;

/** Runs the demo and prints what it does. @returns the exit code: 0 only if nothing was lost. */
export async function runDemo(options: DemoOptions): Promise<number> {
  const folder = mkdtempSync(join(tmpdir(), "spindle-demo-"));
  const progress = new DemoProgress(options.json);
  try {
    const result = await new Demo(options, folder, progress).run();
    if (options.json) standardOutput.write(`${JSON.stringify(result)}\n`);
    else for (const line of ["", ...demoTable(result), ...result.wrong]) standardOutput.write(`${line}\n`);
    return result.ok ? 0 : 1;
  } finally {
    progress.end();
    rmSync(folder, { recursive: true, force: true });
  }
}

class Demo {
  readonly #options: DemoOptions;
  readonly #folder: string;
  readonly #progress: DemoProgress;
  readonly #base: string;
  readonly #overlay: string;

  constructor(options: DemoOptions, folder: string, progress: DemoProgress) {
    this.#options = options;
    this.#folder = folder;
    this.#progress = progress;
    this.#base = options.image === undefined ? join(folder, "base.qcow2") : resolve(options.image);
    this.#overlay = join(folder, "overlay.qcow2");
  }

  async run(): Promise<DemoResult> {
    const { workers, image } = this.#options;
    await using session = new Session({ workers, allowBacking: [dirname(this.#base), this.#folder] });
    if (image === undefined) {
      this.#progress.say("making a 1 GiB base image: data, zeros, holes, compressed clusters");
      await createBaseImage(session, this.#base);
    }
    const format = this.#options.format ?? (await imageInfo(this.#base)).format;
    await createImage(this.#overlay, { format: "qcow2", backing: { filename: this.#base, format } });
    const before = await digest(this.#base);
    const file = { driver: "file", filename: this.#overlay };
    const node = await session.run(session.graph.open({ driver: "qcow2", "node-name": NODE_NAME, file }));
    if (node.length < 4 * VERIFY_BYTES) throw new BlockError("EINVAL", "the demo needs an image of at least 4 MiB");
    const base: BaseImage = { filename: this.#base, format, allowBacking: [dirname(this.#base)] };
    const run = await this.#runGuests(session, node, base);
    await session.run(session.graph.remove(NODE_NAME));
    const final = await this.#verifyAll(run.machine);
    const baseUntouched = (await digest(this.#base)) === before;
    const sectorsWrong = run.machine.statistics.sectorsWrong;
    return {
      ...run.result,
      sectorsVerified: run.machine.statistics.sectorsVerified,
      sectorsWrong,
      wrong: [...run.result.wrong, ...final.wrong],
      backingFileGone: final.backingFileGone,
      baseUntouched,
      ok: sectorsWrong === 0 && final.backingFileGone && baseUntouched,
    };
  }

  async #runGuests(session: Session, node: BlockNode, base: BaseImage) {
    const { guests, packed, workers, seed, seconds } = this.#options;
    await session.warmUp(workers);
    this.#progress.say(`${guests} guests at queue depth 16 on ${formatSize(node.length)}, seed ${seed}`);
    const machine = await DemoMachine.start({ session, node, base, guests, packed, seed });
    await machine.warmUp();
    const times: Record<Phase, number> = { before: 0, during: 0, after: 0 };
    const phase = async <T>(name: Phase, body: () => Promise<T>): Promise<T> => {
      machine.statistics.enter(name);
      const beginMs = performance.now();
      const value = await Promise.race([body(), machine.failure]);
      times[name] = (performance.now() - beginMs) / 1000;
      return value as T;
    };
    await phase("before", () => delay(seconds * 1000));
    const job = await phase("during", () => this.#stream(session));
    await phase("after", () => delay(seconds * 1000));
    const wrong = await machine.stop();
    const { waits, waitedMs, longestWaitMs } = (node.tracker as NonNullable<typeof node.tracker>).statistics();
    const counters = job["x-statistics"] ?? {};
    const counter = (name: string): number => Number(counters[name] ?? 0);
    const bytesCopied = counter("bytes-copied");
    const phases = Object.fromEntries(PHASES.map((name) => [name, phaseResult(machine, name, times[name])]));
    return {
      machine,
      result: {
        seed,
        image: this.#options.image ?? basename(this.#base),
        size: node.length,
        guests,
        workers,
        stream: {
          seconds: times.during,
          bytesCopied,
          bytesPerSecond: bytesCopied / times.during,
          zeroBytes: counter("bytes-empty") + counter("bytes-zero"),
          skippedBytes: counter("bytes-present") + counter("bytes-skipped-written"),
        },
        phases: phases as Record<Phase, PhaseResult>,
        waits: { requests: waits, meanMs: waits === 0 ? 0 : waitedMs / waits, longestMs: longestWaitMs },
        wrong,
      },
    };
  }

  /** Streams through QMP, as any management program would, and returns the job's last state. */
  async #stream(session: Session): Promise<BlockJobInfo> {
    const { graph, jobs, createCopier, runner, environment } = session;
    const monitor = new Monitor({
      graph,
      jobs,
      createCopier,
      runner,
      clock: environment.clock,
      wallClock: { nowMicroseconds: () => Date.now() * 1000 },
      version: { major: 0, minor: 1, micro: 0, package: "" },
      onQuit: () => {},
    });
    const client = await QmpClient.connect(monitor, () => {});
    try {
      const { chunk } = this.#options;
      await client.execute("block-stream", {
        device: NODE_NAME,
        "job-id": JOB_ID,
        "auto-dismiss": false,
        ...(chunk === undefined ? {} : { "x-chunk": chunk }),
      });
      for (;;) {
        const [job] = (await client.execute("query-block-jobs")) as [BlockJobInfo];
        this.#progress.report(job.offset, job.len);
        if (job.status === "concluded") {
          await client.execute("job-dismiss", { id: JOB_ID });
          if (job.error !== undefined) throw new BlockError("EIO", `the stream failed: ${job.error}`);
          return job;
        }
        await delay(POLL_MS);
      }
    } finally {
      client.close();
      monitor.close();
    }
  }

  /** Opens the overlay again and checks all of it. */
  async #verifyAll(machine: DemoMachine): Promise<{ backingFileGone: boolean; wrong: string[] }> {
    this.#progress.say("opening the overlay again and verifying every sector");
    const { format, guests } = this.#options;
    await using session = new Session({ allowBacking: [dirname(this.#base), this.#folder] });
    const overlay = await session.run(session.graph.openImage(this.#overlay, { format: "qcow2", readOnly: true }));
    const base = await session.run(session.graph.openImage(this.#base, { format, readOnly: true }));
    const wrong: string[] = [];
    const { statistics, states } = machine;
    const observer = {
      verified: (sectors: number) => statistics.verified(sectors),
      wrong: (report: string) => {
        statistics.wrong();
        if (wrong.length < 5) wrong.push(`after reopening: ${report}`);
      },
    };
    for (let offset = 0; offset < overlay.length; offset += VERIFY_BYTES) {
      const buffer = new Uint8Array(Math.min(VERIFY_BYTES, overlay.length - offset));
      await session.run(overlay.read(offset, IoVector.of(buffer)));
      const writerOf = (sectorIndex: number) => ownerOf(sectorIndex, overlay.length, guests);
      const readBase = (at: number, bytes: Uint8Array) => base.read(at, IoVector.of(bytes));
      await session.run(verifySectors({ offset, buffer, states, writerOf, readBase, observer }));
    }
    return { backingFileGone: overlay.driver.backingFile === null, wrong };
  }
}

function phaseResult(machine: DemoMachine, phase: Phase, seconds: number): PhaseResult {
  const latency = machine.statistics.latency(phase);
  const requests = latency.count;
  return {
    seconds,
    requests,
    iops: requests / seconds,
    p50Ms: latency.percentile(0.5),
    p99Ms: latency.percentile(0.99),
  };
}

async function digest(filename: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const piece of createReadStream(filename, { highWaterMark: 1 << 20 })) hash.update(piece as Buffer);
  return hash.digest("hex");
}
