/** QEMU's block layer under the same requests, without a guest: `qemu-img bench`. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";

const run = promisify(execFile);

export interface QemuImgBenchOptions {
  readonly image: string;
  readonly format: string;
  readonly operation: "read" | "write";
  readonly depth: number;
  readonly requests: number;
  readonly requestBytes: number;
}

/** Leaps of an odd number of requests visit the image all over; `qemu-img bench` cannot choose at random. */
const STEP_REQUESTS = 4_099;

/** @returns requests a second */
export async function qemuImgBench(program: string, options: QemuImgBenchOptions): Promise<number> {
  const { image, format, operation, depth, requests, requestBytes } = options;
  const size = ["-c", requests, "-d", depth, "-s", requestBytes, "-S", STEP_REQUESTS * requestBytes];
  const write = operation === "write" ? ["-w", "--pattern=165"] : [];
  const { stdout } = await run(program, [
    "bench",
    "-f",
    format,
    "-t",
    "writeback",
    ...size.map(String),
    ...write,
    image,
  ]);
  const seconds = /Run completed in ([\d.]+) seconds/.exec(stdout)?.[1];
  if (seconds === undefined) throw new Error(`qemu-img bench said: ${stdout}`);
  return requests / Number(seconds);
}
