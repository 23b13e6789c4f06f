/** The back end and a front end of our own, each on threads of its own, over a real socket and shared memory. */

import { execFileSync } from "node:child_process";
import { Worker } from "node:worker_threads";
import { peer } from "@spindle/testkit/peers";
import { describe, expect, it } from "vitest";
import type { FrontEndReport, FrontEndWork } from "./front-end-thread.ts";
import { ServedDisk } from "./served-disk.ts";

function runFrontEnd(work: FrontEndWork): Promise<FrontEndReport> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL("./front-end-thread.ts", import.meta.url), { workerData: work });
    worker.on("message", resolve);
    worker.on("error", reject);
    worker.on("exit", () => reject(new Error("the front end ended without a report")));
  });
}

const qemuImg = peer("qemu-img");

describe("a served disk", () => {
  it.each([
    { format: "raw", queues: 1 },
    { format: "raw", queues: 2 },
    { format: "qcow2", queues: 1 },
    { format: "qcow2", queues: 4 },
    { format: "qcow2", queues: 2, packed: true },
    { format: "raw", queues: 1, refused: 2 ** 28 + 2 ** 29 },
    { format: "raw", queues: 1, direct: true },
    { format: "qcow2", queues: 2, direct: true },
  ] as const)(
    "gives back what was written: $format, $queues queues, packed $packed, direct $direct",
    async (situation) => {
      const { format, queues, direct = false, ...more } = { direct: undefined, ...situation };
      await using disk = await ServedDisk.start({ format, queues, direct, serial: "a-serial" });
      const work = { path: disk.socket, options: { queues, ...more }, requests: 400, seed: 1 };
      const report = await runFrontEnd(work);
      expect(report).toEqual({ capacity: 64 * 2 ** 20, id: "a-serial", wrong: 0, requests: 400 * queues });
      expect(disk.lines).toEqual([]);
      await disk.server.close();
      await disk.session.close();
      if (format === "qcow2" && qemuImg !== undefined) execFileSync(qemuImg, ["check", disk.image]);
    },
  );
});
