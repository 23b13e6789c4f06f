/** Images in a folder of their own, a graph on the event loop, and a pool of copy workers: what the pool is tested with. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AsyncRunner, SeededRandom } from "@spindle/base";
import { type BlockNode, DriverRegistry, delayFilter, Graph, IoVector, throttleFilter } from "@spindle/block";
import { qcow2Format, rawFormat } from "@spindle/formats";
import { createFile, fileDriver, nodeEnvironment, nodeEventLoop } from "@spindle/host-node";
import { type Job, JobRegistry, type StreamOptions, startStream } from "@spindle/jobs";
import { RangeLock, ThreadTable } from "@spindle/shared-memory";
import { CopyPool } from "../src/index.ts";

export const MIB: number = 1024 * 1024;

export class PoolWorld {
  readonly folder: string = mkdtempSync(join(tmpdir(), "streaming-test-"));
  readonly runner: AsyncRunner;
  readonly graph: Graph;
  readonly jobs: JobRegistry;
  readonly pool: CopyPool;
  readonly events: string[] = [];
  readonly #workers: number;

  constructor(workers = 2) {
    this.#workers = workers;
    const threads = ThreadTable.create();
    const owner = new ThreadTable(threads).attach();
    const environment = nodeEnvironment();
    const { clock } = environment;
    this.runner = new AsyncRunner(nodeEventLoop(), owner);
    this.graph = new Graph({
      environment,
      registry: new DriverRegistry([fileDriver, rawFormat, qcow2Format, delayFilter, throttleFilter]),
      backingPolicy: {
        *resolve(_image, backing) {
          return backing.filename;
        },
      },
      createTracker: () => new RangeLock(RangeLock.create(), owner),
    });
    this.jobs = new JobRegistry({ clock, runner: this.runner, wake: () => this.runner.wake() });
    this.jobs.onEvent((event) => this.events.push("status" in event.data ? event.data.status : event.event));
    this.pool = new CopyPool({ threads, owner, clock, runner: this.runner, workers });
  }

  path(name: string): string {
    return join(this.folder, name);
  }

  writeRaw(name: string, bytes: Uint8Array): void {
    writeFileSync(this.path(name), bytes);
  }

  /** Makes an empty qcow2 image. */
  async createQcow2(name: string, size: number, backing?: { filename: string; format: string }): Promise<void> {
    await this.runner.run(createFile(this.path(name)));
    const file = await this.runner.run(
      this.graph.open({ driver: "file", "node-name": "new", filename: this.path(name) }),
    );
    const link = backing === undefined ? {} : { backing: { ...backing, filename: this.path(backing.filename) } };
    await this.runner.run(qcow2Format.create?.(file, { size, options: {}, ...link }, nodeEnvironment()) as never);
    await this.runner.run(this.graph.remove("new"));
  }

  /** Opens an image by its name, which becomes the node's name up to the dot. */
  openImage(name: string, driver: string, options: Record<string, unknown> = {}): Promise<BlockNode> {
    const nodeName = name.replace(/\..*/, "");
    const file = { driver: "file", filename: this.path(name) };
    return this.runner.run(this.graph.open({ driver, "node-name": nodeName, file, ...options }));
  }

  start(node: BlockNode, options: Partial<StreamOptions> = {}): Promise<Job> {
    const context = { graph: this.graph, jobs: this.jobs, createCopier: this.pool.createCopier };
    return this.runner.run(startStream(context, { jobId: "j", node, ...options }));
  }

  async stream(node: BlockNode, options: Partial<StreamOptions> = {}): Promise<Job> {
    const job = await this.start(node, options);
    await this.runner.run(job.ended());
    return job;
  }

  /** The same, slowly until the workers are there, so that they have the most of it to do. */
  async streamOnWorkers(node: BlockNode, options: Partial<StreamOptions> = {}): Promise<Job> {
    const job = await this.start(node, { speed: MIB, ...options });
    await this.untilWorkers(job);
    job.setSpeed(0);
    await this.runner.run(job.ended());
    return job;
  }

  async untilWorkers(job: Job): Promise<void> {
    while (!job.over && job.blockJobInfo()["x-statistics"]?.["workers"] !== this.#workers) await soon(5);
  }

  async contents(node: BlockNode): Promise<Uint8Array> {
    const bytes = new Uint8Array(node.length);
    for (let offset = 0; offset < bytes.length; offset += MIB)
      await this.runner.run(node.read(offset, IoVector.of(bytes.subarray(offset, offset + MIB))));
    return bytes;
  }

  /** @throws {Error} when qemu-img finds anything wrong with an image, leaks included. */
  check(qemuImg: string, name: string): void {
    runProgram(qemuImg, ["check", this.path(name)]);
  }

  async close(): Promise<void> {
    await this.runner.run(this.graph.close());
    await this.pool.close();
    rmSync(this.folder, { recursive: true });
  }
}

/** Random bytes with holes of zeros of up to a few clusters. */
export function patchy(seed: number, length: number, zeroChance = 0.3): Uint8Array {
  const random = new SeededRandom(seed);
  const bytes = Buffer.alloc(length);
  for (let offset = 0; offset < length; ) {
    const run = Math.min(length - offset, 4096 * (1 + random.below(64)));
    if (!random.chance(zeroChance))
      for (let at = offset; at < offset + run; at += 8) bytes.writeDoubleLE(random.u32() + 1, Math.min(at, length - 8));
    offset += run;
  }
  return bytes;
}

/** @throws {Error} with what the program says when it does not end with 0. */
export function runProgram(program: string, words: readonly string[]): void {
  const { status, stdout, stderr } = spawnSync(program, words, { encoding: "utf8" });
  if (status !== 0) throw new Error(`${program} ${words.join(" ")}: ${status}\n${stdout}${stderr}`);
}

export function soon(delayMs: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, delayMs));
}

export function sameBytes(one: Uint8Array, other: Uint8Array): boolean {
  return Buffer.compare(one, other) === 0;
}
