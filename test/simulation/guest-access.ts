/** The ways by which guests reach the disk: the node itself, ports of other threads, and the virtio-blk device. */
import { type Co, until } from "@spindle/base";
import { type BlockNode, DiskPort, type IoVector, PortServer, type WriteFlags } from "@spindle/block";
import { type Thread, ThreadTable, type ThreadTableHandle } from "@spindle/shared-memory";
import type { ObservableDisk, SimulatedRunner } from "@spindle/testkit";
import {
  createVirtioBlk,
  type Disk,
  GuestMemory,
  GuestQueue,
  MmioTransport,
  planGuest,
  QueueServer,
  startGuest,
} from "@spindle/virtio-blk";
import type { SimulatedStorage } from "./storage.ts";

/** The device has split rings over the node, packed ones over ports. */
export const ACCESS_KINDS = ["node", "port", "virtio", "virtio over port"] as const;
export type AccessKind = (typeof ACCESS_KINDS)[number];

export interface GuestAccess {
  /** One for each guest. */
  readonly disks: readonly ObservableDisk[];
  /** Takes down what stands between the guests and the node; nothing is in flight. */
  close(): Co<void>;
}

export interface AccessParts {
  readonly kind: AccessKind;
  readonly node: BlockNode;
  readonly guests: number;
  readonly runner: SimulatedRunner;
  readonly storage: SimulatedStorage;
  /** The owner's thread, and the table in which ports and guests have threads of their own. */
  readonly thread: Thread;
  readonly table: ThreadTableHandle;
}

/** The largest request of a simulated guest. */
const BUFFER_BYTES = 64 * 1024;
const QUEUE_SIZE = 16;

/** Prepares the way; runs the runner where that takes time. */
export function openAccess(parts: AccessParts): GuestAccess {
  const { kind, node, guests } = parts;
  const throughPort = kind === "port" || kind === "virtio over port";
  const ports = throughPort ? openPorts(parts) : undefined;
  const disks: readonly Disk[] = ports?.disks ?? Array.from({ length: guests }, () => node);
  const device = kind.startsWith("virtio") ? startDevice(parts, disks, throughPort) : undefined;
  return {
    disks: device?.disks ?? disks,
    *close() {
      if (device !== undefined) yield* device.close();
      if (ports !== undefined) yield* ports.close();
    },
  };
}

function openPorts({ node, guests, runner, storage, thread, table }: AccessParts): GuestAccess & { disks: Disk[] } {
  const server = new PortServer(node, thread, runner);
  const disks = Array.from(
    { length: guests },
    () => new DiskPort(server.open(), new ThreadTable(table).attach(), storage, runner.clock),
  );
  return { disks, close: () => server.close() };
}

function startDevice(parts: AccessParts, disks: readonly Disk[], packed: boolean): GuestAccess {
  const { node, runner, table } = parts;
  const queueCount = disks.length;
  const plan = planGuest({ queueCount, queueSize: QUEUE_SIZE, dataBytes: BUFFER_BYTES });
  const device = createVirtioBlk({
    memory: GuestMemory.create(plan.length),
    threads: table,
    diskLength: node.length,
    queueCount,
    packed,
    serial: "simulated",
  });
  let stopping = false;
  let serving = 0;
  const threads = disks.map((disk, queue) => {
    const thread = new ThreadTable(table).attach();
    const server = new QueueServer({ device, queues: [queue], disk, thread, runner });
    serving += 1;
    runner.spawn(
      server.serve(() => stopping),
      (error) => {
        serving -= 1;
        if (error !== undefined) throw error;
      },
      `virtqueue ${queue}`,
    );
    return new ThreadTable(table).attach();
  });
  const guest = runner.run(startGuest(new MmioTransport(device), device, plan.queues), "the guest's start");
  return {
    disks: threads.map((thread, queue) => new QueueDisk(new GuestQueue(guest, queue, thread))),
    *close() {
      stopping = true;
      yield* until(() => serving === 0);
    },
  };
}

/** A virtqueue as a disk. The device has no write that is durable at once: a flush follows. */
class QueueDisk implements ObservableDisk {
  readonly #queue: GuestQueue;

  constructor(queue: GuestQueue) {
    this.#queue = queue;
  }

  *read(offset: number, vector: IoVector): Co<void> {
    const bytes = new Uint8Array(vector.length);
    yield* this.#queue.read(offset, bytes);
    vector.copyFrom(bytes);
  }
  *write(offset: number, vector: IoVector, flags?: WriteFlags): Co<void> {
    yield* this.#queue.write(offset, vector.toBytes());
    if (flags?.fua === true) yield* this.#queue.flush();
  }
  *writeZeroes(offset: number, length: number, flags?: WriteFlags): Co<void> {
    yield* this.#queue.writeZeroes(offset, length, flags?.mayUnmap === true);
    if (flags?.fua === true) yield* this.#queue.flush();
  }
  discard(offset: number, length: number): Co<void> {
    return this.#queue.discard(offset, length);
  }
  flush(): Co<void> {
    return this.#queue.flush();
  }
}
