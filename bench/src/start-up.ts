/** What a short command costs: `spindle info` of a small image, against Node that does nothing, and `qemu-img info`. */
import { MiB } from "@spindle/base";
import { peer } from "@spindle/testkit/peers";
import { createImage } from "spindle";
import { type Bench, type BenchContext, inTurn, scaled } from "./bench.ts";
import { runProgram, spindleProgram } from "./program.ts";
import { Scratch } from "./scratch.ts";
import { cell, ratioCell, type Table } from "./table.ts";

export const startUpBench: Bench = {
  name: "start-up",
  about: "a short command as a whole process",
  async run(context: BenchContext): Promise<Table[]> {
    using scratch = new Scratch();
    const image = scratch.path("small.qcow2");
    await createImage(image, { format: "qcow2", size: 64 * MiB });
    const rounds = scaled(context, { full: 40, quick: 10, shape: 1 });
    const qemuImg = peer("qemu-img");
    const timed = (argv: readonly string[]) => async (): Promise<number> => (await runProgram(argv)).seconds * 1_000;
    const info = timed([...spindleProgram(context), "info", image]);
    // The first call after a build compiles, and keeps what it compiled.
    await info();
    const samples = await inTurn<"info" | "node" | "qemu">(rounds, {
      info,
      node: timed([process.execPath, "-e", "0"]),
      ...(qemuImg && { qemu: timed([qemuImg, "info", image]) }),
    });
    const { info: ours, node, qemu = [] } = samples;
    const ratio = ratioCell(ours, node, { atMost: 1.5 });
    return [startUpTable([{ label: "info", cells: [cell(ours), cell(node), cell(qemu), ratio] }])];
  },
};

function startUpTable(rows: Table["rows"]): Table {
  const unit = "ms";
  return {
    name: "start-up",
    title: "A short command, whole processes",
    arguments: "start-up",
    columns: [
      { title: "spindle info", unit, plotted: true },
      { title: "node -e 0", unit, plotted: true },
      { title: "qemu-img info", unit, plotted: true },
      { title: "times node -e 0", unit: "" },
    ],
    rows,
    notes: ["The image is an empty one of 64 MiB; the program was called before."],
  };
}
