/** The device across threads: the guest on some, the queues on others, the transport on this one. */
import { once } from "node:events";
import { Worker } from "node:worker_threads";
import { SyncRunner } from "@spindle/base";
import type { IoVector } from "@spindle/block";
import { type Thread, ThreadTable } from "@spindle/shared-memory";
import { afterEach, expect, test } from "vitest";
import { createVirtioBlk, type VirtioBlkHandle } from "../src/create-device.ts";
import { DeviceState } from "../src/device-state.ts";
import {
  type GuestHandle,
  type GuestQueuePlan,
  planGuest,
  resetDevice,
  startGuest,
} from "../src/driver/guest-driver.ts";
import { GuestQueue } from "../src/driver/guest-queue.ts";
import { VIRTIO_F_EVENT_IDX } from "../src/features.ts";
import { GuestMemory } from "../src/guest-memory.ts";
import { MmioTransport } from "../src/mmio.ts";
import { OneThread, SPARE_BYTES } from "./one-thread.ts";
import type { GuestThreadData } from "./threads/guest-thread.ts";
import type { QueueWorkerData } from "./threads/queue-worker-thread.ts";
import type { ScribblerData } from "./threads/scribbler-thread.ts";

const workers: { worker: Worker; stop?: Int32Array; wake?: () => void }[] = [];

afterEach(async () => {
  for (const { worker, stop, wake } of workers.splice(0)) {
    if (stop !== undefined) Atomics.store(stop, 0, 1);
    wake?.();
    if (worker.threadId !== -1) await once(worker, "exit");
  }
});

function start(file: string, workerData: unknown): Worker {
  return new Worker(new URL(`./threads/${file}.ts`, import.meta.url), { workerData });
}

interface Machine {
  readonly device: VirtioBlkHandle;
  readonly disk: SharedArrayBuffer;
  readonly queues: GuestQueuePlan[];
  readonly registers: MmioTransport;
  readonly runner: SyncRunner;
  readonly thread: Thread;
}

interface MachineOptions {
  readonly queueCount: number;
  readonly queueSize: number;
  readonly dataBytes: number;
  readonly packed?: boolean;
}

function machine(options: MachineOptions): Machine {
  const plan = planGuest(options);
  const threads = ThreadTable.create();
  const thread = new ThreadTable(threads).attach();
  const disk = new SharedArrayBuffer(16 * 1024 * 1024);
  const device = createVirtioBlk({
    memory: GuestMemory.create(plan.length),
    threads,
    diskLength: disk.byteLength,
    queueCount: options.queueCount,
    packed: options.packed === true,
  });
  const runner = new SyncRunner({ now: () => performance.now() }, thread);
  return { device, disk, queues: plan.queues, registers: new MmioTransport(device), runner, thread };
}

async function serve(built: Machine, queues: number[], spin = 0, delay = 0): Promise<void> {
  const stop = new SharedArrayBuffer(4);
  const workerData: QueueWorkerData = { device: built.device, queues, disk: built.disk, stop, spin, delay };
  const worker = start("queue-worker-thread", workerData);
  const [{ thread }] = (await once(worker, "message")) as [{ thread: number }];
  const table = new ThreadTable(built.device.threads);
  workers.push({ worker, stop: new Int32Array(stop), wake: () => table.ring(thread) });
}

function runGuest(guest: GuestHandle, options: Omit<GuestThreadData, "guest">): Promise<unknown> {
  const worker = start("guest-thread", { guest, ...options } satisfies GuestThreadData);
  workers.push({ worker });
  return once(worker, "message");
}

const BOTH = [
  ["split", false],
  ["packed", true],
] as const;

test.each(BOTH)(
  "two guest threads at depth 32 over four %s queues and two workers read what they wrote",
  async (_, packed) => {
    const built = machine({ queueCount: 4, queueSize: 32, dataBytes: 4096, packed });
    await serve(built, [0, 2]);
    await serve(built, [1, 3], 200);
    const guest = built.runner.run(startGuest(built.registers, built.device, built.queues));
    const common = { depth: 32, rounds: 200, bytes: 4096, delay: 0 };
    await Promise.all([0, 1].map((queue) => runGuest(guest, { ...common, queue, seed: queue })));
    await Promise.all([2, 3].map((queue) => runGuest(guest, { ...common, queue, seed: queue })));
  },
);

const EVENTS = [
  ["the event index", 0, 1],
  ["the event index and two requests at a time", 0, 2],
  ["flags", VIRTIO_F_EVENT_IDX, 1],
] as const;

test.each(BOTH.flatMap(([form, packed]) => EVENTS.map((events) => [form, ...events, packed] as const)))(
  "on a %s queue with %s no kick and no interrupt is lost, however the threads meet",
  async (_, __, refused, depth, packed) => {
    const built = machine({ queueCount: 1, queueSize: 4, dataBytes: 4096, packed });
    await serve(built, [0]);
    const guest = built.runner.run(startGuest(built.registers, built.device, built.queues, { low: refused }));
    // A lost notification leaves both threads asleep for ever: the test's time limit is the oracle.
    await runGuest(guest, { queue: 0, depth, rounds: 12_000, bytes: 512, seed: 1, delay: 3000 });
  },
  30_000,
);

test.each(BOTH)(
  "a reset of %s queues from another thread is over when the worker has let go of memory",
  async (_, packed) => {
    const built = machine({ queueCount: 2, queueSize: 32, dataBytes: 4096, packed });
    await serve(built, [0, 1], 0, 200);
    const memory = new GuestMemory(built.device.memory);
    const views: Uint8Array[] = [];
    const { byteLength } = built.device.memory.regions[0]!.memory;
    memory.translate(0, byteLength, views);
    const all = views[0] as Uint8Array;
    const untouched = new Uint8Array(byteLength).fill(0x55);
    for (let round = 0; round < 60; round++) {
      const guest = built.runner.run(startGuest(built.registers, built.device, built.queues));
      for (const index of [0, 1]) {
        const queue = new GuestQueue(guest, index, built.thread);
        while (queue.submit({ type: 0, length: 4096 }) >= 0);
        queue.commit();
      }
      for (let turn = 0; turn < round * 500; turn++) Atomics.load(new Int32Array(4), 0);
      built.runner.run(resetDevice(built.registers));
      all.fill(0x55);
      for (let turn = 0; turn < 20_000; turn++) Atomics.load(new Int32Array(4), 0);
      expect(Buffer.compare(all, untouched)).toBe(0);
    }
  },
);

/** How long another thread scribbles: in the long form for a minute. */
const SCRIBBLE_MS = process.env["SPINDLE_LONG"] === "1" ? 60_000 : 1_000;

test.each(BOTH)(
  "a thread that changes %s rings, tables and headers under the device breaks nothing but its own queue",
  async (_, packed) => {
    const guest = new OneThread({ queueSize: 16, device: { packed } });
    const state = new DeviceState(guest.device);
    const { layout, slotsAddress } = guest.plans[0]!;
    const stop = new SharedArrayBuffer(4);
    const ranges = [
      { offset: layout.descriptorAddress, length: 256 },
      { offset: layout.driverAddress, length: packed ? 4 : 40 },
      { offset: slotsAddress, length: 16 * 128 },
    ];
    const worker = start("scribbler-thread", {
      memory: guest.device.memory.regions[0]!.memory as SharedArrayBuffer,
      ranges,
      stop,
      seed: 3,
    } satisfies ScribblerData);
    workers.push({ worker, stop: new Int32Array(stop) });
    await once(worker, "message");
    let latched = 0;
    let served = 0;
    for (const operation of ["read", "write"] as const) {
      const perform = guest.disk[operation].bind(guest.disk);
      guest.disk[operation] = function* (offset: number, vector: IoVector) {
        served += 1;
        yield* perform(offset, vector);
      };
    }
    const until = performance.now() + SCRIBBLE_MS;
    while (performance.now() < until) {
      guest.start();
      for (let round = 0; round < 50 && state.queues[0]?.fault === undefined; round++) {
        // The driver's rings are scribbled over as well: it begins anew each time, and believes nothing.
        const queue = guest.queue();
        while (queue.submit({ type: round % 2, offset: 512 * round, length: 4096 }) >= 0);
        queue.commit();
        guest.poll();
        if (state.queues[0]?.fault === undefined) guest.start();
      }
      if (state.queues[0]?.fault !== undefined) latched += 1;
      expect(guest.served).toBeUndefined();
    }
    Atomics.store(new Int32Array(stop), 0, 1);
    await once(worker, "message");
    expect(served).toBeGreaterThan(1000);
    expect(latched).toBeGreaterThan(0);
    guest.start();
    expect(guest.runner.run(guest.queue().getId()).length).toBe(20);
    expect(guest.spare + SPARE_BYTES).toBe(guest.device.memory.regions[0]!.length);
  },
  SCRIBBLE_MS + 30_000,
);
