/** The range lock: alone by how much is held, between two threads, and how fast one wakes that waited. */
import { RangeLock, ThreadTable } from "@spindle/shared-memory";
import { type Bench, type BenchContext, scaled } from "./bench.ts";
import { rangeLockBench } from "./range-lock.ts";
import type { RangeLockWork } from "./range-lock-worker.ts";
import { quantile } from "./statistics.ts";
import { type Cell, cell, type Row, type Table } from "./table.ts";
import { startWorker } from "./worker-thread.ts";

export const rangeLockTables: Bench = {
  name: "range-lock",
  about: "the range lock: cost of a request's place in it, two threads at once, wake-up",
  async run(context: BenchContext): Promise<Table[]> {
    const alone = rangeLockBench().map(({ name, value }) => row(name, cell([value])));
    const throughput = await twoThreads(context);
    const wake = await wakeUp(context);
    return [lockTable([...alone, throughput, ...wake])];
  },
};

function lockTable(rows: readonly Row[]): Table {
  return {
    name: "range-lock",
    title: "The range lock in shared memory",
    arguments: "range-lock",
    columns: [{ title: "time", unit: "ns", plotted: true }],
    rows,
    notes: [
      "With two threads the time is one thread's, of an acquisition and release of a range that the other does not touch.",
      "A wake-up is from the release of a range to the end of the wait of a thread that sleeps for it.",
    ],
  };
}

async function twoThreads(context: BenchContext): Promise<Row> {
  const rounds = scaled(context, { full: 3_000, quick: 500, shape: 1 });
  const rates = await runPair(["own-range", "own-range"], rounds, 2);
  return row("acquire and release, two threads at once", cell(rates.map((rate) => 1e9 / rate)));
}

async function wakeUp(context: BenchContext): Promise<Row[]> {
  const rounds = scaled(context, { full: 3_000, quick: 500, shape: 5 });
  const times = (await runPair(["holder", "waiter"], rounds, rounds)).sort((left, right) => left - right);
  return [0.5, 0.99].map((fraction) => row(`wake-up, p${fraction * 100}`, cell([quantile(times, fraction)])));
}

async function runPair(roles: readonly RangeLockWork["role"][], rounds: number, figures: number): Promise<number[]> {
  const shared = {
    rounds,
    threads: ThreadTable.create(),
    lock: RangeLock.create(),
    control: new SharedArrayBuffer(16),
    results: new SharedArrayBuffer(figures * Float64Array.BYTES_PER_ELEMENT),
  };
  const workers = roles.map((role, index) =>
    startWorker("./range-lock-worker.ts", { ...shared, role, index } satisfies RangeLockWork),
  );
  await Promise.all(workers.map(({ ended }) => ended));
  return [...new Float64Array(shared.results)];
}

function row(label: string, figure: Cell): Row {
  return { label, cells: [figure] };
}
