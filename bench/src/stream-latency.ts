/**
 * Streaming from a base that answers late: 20 ms for every read, as over a long line. Ours reads through the `delay`
 * filter, QEMU from nbdkit with its filter of the same name, over a Unix socket.
 */
import { MiB } from "@spindle/base";
import { peer } from "@spindle/testkit/peers";
import { type Bench, type BenchContext, inTurn, measuresBuild, scaled } from "./bench.ts";
import { createOverlay, imageFile } from "./images.ts";
import { Nbdkit } from "./peers/nbdkit.ts";
import { Scratch, writeRandomFile } from "./scratch.ts";
import { streamWithQemu } from "./stream.ts";
import { streamInProcess } from "./stream-process.ts";
import { cell, ratioCell, type Table } from "./table.ts";

const DELAY_MS = 20;
const WORKERS = 2;
const TIMES_QEMU = { atLeast: 20 };

export const streamLatencyBench: Bench = {
  name: "stream-latency",
  about: "a stream from a base with 20 ms of latency against qemu-storage-daemon",
  async run(context: BenchContext): Promise<Table[]> {
    using scratch = new Scratch();
    const length = scaled(context, { full: 512 * MiB, quick: 128 * MiB, shape: 4 * MiB });
    const rounds = scaled(context, { full: 3, quick: 1, shape: 1 });
    const base = scratch.path("base.raw");
    const overlay = scratch.path("overlay.qcow2");
    writeRandomFile(base, length);
    const rate = (seconds: number): number => length / 1e6 / seconds;
    const daemon = peer("qemu-storage-daemon");
    const nbdkit = peer("nbdkit");
    const { ours, qemu = [] } = await inTurn<"ours" | "qemu">(rounds, {
      ours: async () => {
        await createOverlay(overlay, length);
        const backing = { driver: "delay", "read-ms": DELAY_MS, file: imageFile("raw", base) };
        const { seconds } = await streamInProcess(
          { image: overlay, backing, workers: WORKERS },
          { built: measuresBuild(context) },
        );
        scratch.remove("overlay.qcow2");
        return rate(seconds);
      },
      ...(daemon &&
        nbdkit && {
          qemu: async () => {
            await createOverlay(overlay, length);
            const server = await Nbdkit.start(nbdkit, base, scratch.path("nbd.socket"), DELAY_MS);
            const file = { driver: "nbd", server: { type: "unix", path: server.socket } };
            const seconds = await streamWithQemu(daemon, { driver: "raw", file }, overlay);
            await server.stop();
            scratch.remove("overlay.qcow2", "nbd.socket");
            return rate(seconds);
          },
        }),
    });
    const row = { label: "raw base", cells: [cell(ours), cell(qemu), ratioCell(ours, qemu, TIMES_QEMU)] };
    return [latencyTable(length, row)];
  },
};

function latencyTable(length: number, row: Table["rows"][number]): Table {
  return {
    name: "stream-latency",
    title: `Stream of ${length / MiB} MiB from a base with ${DELAY_MS} ms of latency on every read`,
    arguments: "stream-latency",
    columns: [
      { title: `spindle, ${WORKERS} workers`, unit: "MB/s", plotted: true },
      { title: "qemu-storage-daemon", unit: "MB/s", plotted: true },
      { title: "times QEMU", unit: "" },
    ],
    rows: [row],
    notes: ["QEMU keeps one read of 512 KiB on its way at a time, so that its rate is 512 KiB a round trip."],
  };
}
