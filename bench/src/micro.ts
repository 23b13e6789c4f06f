/** Small things that happen often, one at a time on one thread: what a request is made of. */
import { closeSync, openSync, readSync, writeSync } from "node:fs";
import { type Co, KiB, MiB, perform, SyncRunner } from "@spindle/base";
import { Backend, IoVector } from "@spindle/block";
import { Ring } from "@spindle/shared-memory";
import { fillStamp, hasStamp, sectorWords } from "@spindle/workload";
import { Session } from "spindle";
import { Bench as Stopwatch } from "tinybench";
import { type Bench, type BenchContext, scaled } from "./bench.ts";
import { createOverlay, imageFile } from "./images.ts";
import { Scratch } from "./scratch.ts";
import type { Row, Table } from "./table.ts";

/** Calls that one sample times together: the clock itself costs as much as several of them. */
const BATCH = 1_000;
const PAGE = 4 * KiB;

interface Subject {
  readonly label: string;
  /** Does the thing `BATCH` times. */
  readonly batch: () => void | Promise<void>;
}

export const microBench: Bench = {
  name: "micro",
  about: "coroutines, rings, stamps and qcow2 on one thread",
  async run(context: BenchContext): Promise<Table[]> {
    using scratch = new Scratch();
    const descriptor = openPage(scratch.path("page"));
    await using session = new Session();
    try {
      const subjects = [
        ...coroutines(),
        ring(),
        ...stamps(),
        ...(await qcow2(session, scratch)),
        systemCall(descriptor),
      ];
      return [microTable(await measure(context, subjects))];
    } finally {
      closeSync(descriptor);
    }
  },
};

/** @returns one row a subject: nanoseconds of one call */
async function measure(context: BenchContext, subjects: readonly Subject[]): Promise<Row[]> {
  const time = scaled(context, { full: 1_500, quick: 200, shape: 1 });
  const stopwatch = new Stopwatch({ time, warmupTime: time / 5, iterations: 1, warmupIterations: 1, throws: true });
  for (const { label, batch } of subjects) stopwatch.add(label, batch);
  await stopwatch.run();
  return stopwatch.tasks.map(({ name, result }) => {
    if (!("latency" in result)) throw new Error(`${name} was not measured`);
    const nanoseconds = (ms: number) => (ms * 1e6) / BATCH;
    const { p50, min, p99 } = result.latency;
    const figure = { median: nanoseconds(p50), low: nanoseconds(min), high: nanoseconds(p99) };
    return { label: name, cells: [figure] };
  });
}

function microTable(rows: readonly Row[]): Table {
  return {
    name: "micro",
    title: "One call on one thread",
    arguments: "micro",
    columns: [{ title: "one call", unit: "ns", plotted: true }],
    rows,
    notes: [`Batches of ${BATCH} calls; in parentheses the fastest batch and the one that 99 % were faster than.`],
  };
}

function coroutines(): Subject[] {
  const runner = new SyncRunner(performance);
  const nothing = { kind: "operation", perform: () => 0, start: () => {} } as const;
  const leaf = function* (): Co<number> {
    return yield* perform(nothing);
  };
  const nest = function* (depth: number, inner: () => Co<number>): Co<number> {
    return depth === 1 ? yield* inner() : yield* nest(depth - 1, inner);
  };
  const ready = function* (): Co<number> {
    return 0;
  };
  const repeat = function* (inner: () => Co<number>): Co<void> {
    for (let call = 0; call < BATCH; call++) yield* nest(3, inner);
  };
  const asynchronous = async (depth: number): Promise<number> => (depth === 1 ? 0 : await asynchronous(depth - 1));
  return [
    { label: "four nested coroutines, one wait", batch: () => runner.run(repeat(leaf)) },
    { label: "four nested coroutines, no wait", batch: () => runner.run(repeat(ready)) },
    {
      label: "four nested async functions, to compare",
      batch: async () => {
        for (let call = 0; call < BATCH; call++) await asynchronous(4);
      },
    },
  ];
}

function ring(): Subject {
  const width = 5;
  const queue = new Ring(new SharedArrayBuffer(Ring.bytes(64, width)), 0, 64, width);
  const record = new Float64Array(width);
  return {
    label: "ring: push and pop of a request",
    batch: () => {
      for (let call = 0; call < BATCH; call++) {
        queue.push(record);
        queue.pop(record);
      }
    },
  };
}

function stamps(): Subject[] {
  const words = sectorWords(new Uint8Array(PAGE));
  const stamp = { writer: 1, sequence: 2, sectorIndex: 3 };
  const everySector = (visit: (at: number) => void) => () => {
    for (let call = 0; call < BATCH; call++) for (let at = 0; at < words.length; at += 128) visit(at);
  };
  return [
    { label: "stamp of 4 KiB: fill", batch: everySector((at) => fillStamp(words, at, stamp)) },
    { label: "stamp of 4 KiB: verify", batch: everySector((at) => hasStamp(words, at, stamp)) },
  ];
}

/** Requests that find everything cached: what the layers above the system call add to it. */
async function qcow2(session: Session, scratch: Scratch): Promise<Subject[]> {
  const image = scratch.path("image.qcow2");
  const length = 16 * MiB;
  await createOverlay(image, length);
  const node = await session.run(session.graph.open(imageFile("qcow2", image)));
  await session.run(node.write(0, IoVector.of(new Uint8Array(length).fill(1))));
  const { clusters } = node.driver;
  if (clusters === undefined) throw new Error("a qcow2 image has no cluster map");
  const backend = new Backend(node, session.runner, performance, session.thread);
  const page = IoVector.of(new Uint8Array(PAGE));
  const everywhere = (visit: (offset: number) => void) => () => {
    for (let call = 0; call < BATCH; call++) visit((call * 37 * PAGE) % length);
  };
  return [
    {
      label: "qcow2: look a cluster up",
      batch: everywhere((offset) => {
        if (clusters.lookup(offset, PAGE).next().done !== true) throw new Error("a cached lookup waited");
      }),
    },
    {
      label: "qcow2: blocking read of 4 KiB",
      batch: everywhere((offset) => backend.sync({ operation: "read", offset, vector: page })),
    },
    {
      label: "qcow2: blocking write of 4 KiB",
      batch: everywhere((offset) => backend.sync({ operation: "write", offset, vector: page })),
    },
  ];
}

function systemCall(descriptor: number): Subject {
  const page = new Uint8Array(PAGE);
  return {
    label: "fs.readSync of 4 KiB, to compare",
    batch: () => {
      for (let call = 0; call < BATCH; call++) readSync(descriptor, page, 0, PAGE, 0);
    },
  };
}

function openPage(path: string): number {
  const descriptor = openSync(path, "w+");
  writeSync(descriptor, new Uint8Array(PAGE).fill(1));
  return descriptor;
}
