import * as fs from "node:fs";
import { isMainThread, Worker, workerData } from "node:worker_threads";
export async function bareCopy(dir: string, size: number, chunk: number) {
  fs.writeFileSync(`${dir}/bare`, "");
  const t0 = performance.now();
  await Promise.all(
    [0, 1].map(
      (i) =>
        new Promise((r) => new Worker(new URL(import.meta.url), { workerData: { dir, size, chunk, i } }).on("exit", r)),
    ),
  );
  console.log("bare MB/s", size / 1e6 / ((performance.now() - t0) / 1000));
  fs.rmSync(`${dir}/bare`);
}
if (!isMainThread && workerData?.dir) {
  const { dir, size, chunk, i } = workerData;
  const a = fs.openSync(`${dir}/base`, "r"),
    b = fs.openSync(`${dir}/bare`, "r+");
  const buf = Buffer.allocUnsafeSlow(chunk);
  for (let at = i * chunk; at < size; at += 2 * chunk) {
    fs.readSync(a, buf, 0, chunk, at);
    fs.writeSync(b, buf, 0, chunk, at);
  }
}
