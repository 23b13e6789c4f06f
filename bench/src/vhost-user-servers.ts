/** The back ends of the vhost-user bench as child processes, and the driver that is put before each. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { QemuStorageDaemon } from "./peers/qemu-storage-daemon.ts";
import type { DriverReport, DriverWork } from "./vhost-user-protocol.ts";

/** Long for a machine that does other things meanwhile. */
const START_MS_MAX = 20_000;

export interface ServedImage {
  readonly filename: string;
  readonly format: string;
  /** Past the page cache. */
  readonly direct: boolean;
  readonly queues: number;
  readonly socket: string;
}

export interface BackEnd {
  stop(): Promise<void>;
}

/**
 * @param built the program's bundle rather than its sources
 * @throws {Error} when it does not serve in time.
 */
export async function serveOurs(image: ServedImage, built: boolean): Promise<BackEnd> {
  const { filename, format, direct, queues, socket } = image;
  const script = fileURLToPath(
    new URL(`../../tools/spindle/${built ? "bin/spindle.cjs" : "src/main.ts"}`, import.meta.url),
  );
  const node = built ? [] : ["--conditions=spindle-source", "--disable-warning=ExperimentalWarning"];
  const argv = ["serve", filename, "-f", format, "--queues", `${queues}`, "-t", direct ? "none" : "writeback"];
  const child: ChildProcess = spawn(process.execPath, [...node, script, ...argv, "--vhost-user", socket], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const signal = AbortSignal.timeout(START_MS_MAX);
  try {
    await once(child.stdout as NodeJS.ReadableStream, "data", { signal });
  } catch (error) {
    child.kill("SIGKILL");
    throw new Error("spindle serve does not come to serve", { cause: error });
  }
  return {
    async stop() {
      const exit = once(child, "exit");
      child.kill("SIGTERM");
      await exit;
    },
  };
}

/** qemu-storage-daemon with its vhost-user-blk export in one iothread. */
export async function serveTheirs(
  program: string,
  { filename, format, direct, queues, socket }: ServedImage,
  aio: "threads" | "io_uring",
): Promise<BackEnd> {
  const cache = { direct };
  const file = { driver: "file", filename, aio, cache };
  const daemon = await QemuStorageDaemon.start(program, [{ driver: format, "node-name": "disk", cache, file }]);
  await daemon.execute("object-add", { "qom-type": "iothread", id: "thread" });
  await daemon.execute("block-export-add", {
    ...{ type: "vhost-user-blk", id: "export", "node-name": "disk", writable: true, iothread: "thread" },
    ...{ addr: { type: "unix", path: socket }, "num-queues": queues },
  });
  return { stop: () => daemon.kill() };
}

/** The driver, on a thread of its own. */
export class DriverThread implements AsyncDisposable {
  readonly #worker = new Worker(new URL("./vhost-user-driver-worker.ts", import.meta.url), {
    execArgv: ["--conditions=spindle-source", "--disable-warning=ExperimentalWarning"],
  });

  /**
   * Lets it do its work; one at a time.
   * @throws {Error} what the driver has met; it drives no more.
   */
  async drive(work: DriverWork): Promise<DriverReport> {
    // An error of the worker rejects this.
    const report = once(this.#worker, "message");
    this.#worker.postMessage(work);
    const [answer] = (await report) as [DriverReport];
    return answer;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#worker.terminate();
  }
}
