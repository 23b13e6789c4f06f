/**
 * A disk served to virtual machines at a Unix socket: one protocol thread, and one thread for each virtqueue. The calling
 * thread stays the owner of the graph, and goes on with its jobs.
 */
import { rmSync } from "node:fs";
import { extname } from "node:path";
import { MessageChannel, Worker, type WorkerOptions } from "node:worker_threads";
import { BlockError, type Co, type Runner, until } from "@spindle/base";
import { type BlockNode, PortServer } from "@spindle/block";
import { listenForDescriptors, sharingCalls } from "@spindle/host-node";
import type { Thread, ThreadTableHandle } from "@spindle/shared-memory";
import { createVirtioBlk, DeviceState, type ErrorPolicy, type IoErrorReport } from "@spindle/virtio-blk";
import type { ProtocolThreadData } from "./protocol-thread.ts";
import { QueueControl } from "./queue-control.ts";
import type { QueueThreadData } from "./queue-thread.ts";

/** The thread table has 64 places, and copy workers need theirs. */
export const QUEUES_MAX = 16;

/** Drivers choose 128 to 1024 entries as they like. */
const QUEUE_SIZE_MAX = 1024;
/** What fits the smallest queue that virtual machines are set up with, of 128 entries. */
const SEGMENTS_MAX = 126;

const POLL_US_DEFAULT = 32;

export interface VhostUserOptions {
  /** The disk. It has no other port server. */
  readonly node: BlockNode;
  readonly threads: ThreadTableHandle;
  /** The owner's place among them; its table can wake threads that sleep in descriptors. */
  readonly thread: Thread;
  /** The owner's runner. */
  readonly runner: Pick<Runner, "spawn"> & { run<T>(co: Co<T>): Promise<T> };
  /** Of the socket. */
  readonly path: string;
  /** 1 to 16; 1 when left out. */
  readonly queues?: number;
  /** What the disk calls itself: up to 20 bytes. */
  readonly serial?: string;
  /** Microseconds for which an idle queue is looked at before its thread sleeps, at most; 0 for never, 32 when left out. */
  readonly pollUs?: number;
  /** What is done about errors of reads, and of everything else; `report` when left out. `enospc` is for `werror` alone. */
  readonly rerror?: ErrorPolicy;
  readonly werror?: ErrorPolicy;
  /** Told of each error of a guest's request, on the owner's thread. */
  readonly ioError?: (report: IoErrorReport) => void;
  /** Told in a sentence what front ends do wrong. */
  readonly report?: (line: string) => void;
}

export class VhostUserServer {
  /** Rejects when one of the threads fails; never resolves. */
  readonly failure: Promise<never>;
  readonly #options: VhostUserOptions;
  readonly #ports: PortServer;
  readonly #listener: number;
  readonly #stop: number;
  readonly #state: DeviceState;
  readonly #changed: number;
  readonly #forgetLength: () => void;
  readonly #protocol: Promise<void>;
  readonly #queues: Promise<void>[] = [];
  readonly #errors: Promise<void>;
  #closing = false;
  readonly #controls: readonly ReturnType<typeof QueueControl.allocate>[];
  #fail: (error: unknown) => void = () => {};
  #closed: Promise<void> | undefined;

  /**
   * Listens, and serves whoever comes, one after the other.
   * @throws {BlockError} EBUSY, EEXIST, EACCES and the like for the socket, EINVAL for options out of range, ENOTSUP where
   *   memory cannot be shared.
   */
  static async start(options: VhostUserOptions): Promise<VhostUserServer> {
    const { queues = 1 } = options;
    if (!Number.isInteger(queues) || queues < 1 || queues > QUEUES_MAX)
      throw new BlockError("EINVAL", `a device has 1 to ${QUEUES_MAX} virtqueues`);
    const device = describeDevice(options, queues);
    const listener = await listenForDescriptors(options.path);
    return new VhostUserServer(options, device, listener);
  }

  private constructor(options: VhostUserOptions, device: ReturnType<typeof createVirtioBlk>, listener: number) {
    const { node, thread, runner, pollUs = POLL_US_DEFAULT } = options;
    this.#options = options;
    this.#listener = listener;
    this.#stop = sharingCalls().createEvent();
    this.#changed = sharingCalls().createEvent();
    this.#state = new DeviceState(device, thread.table);
    this.#state.errorThread = thread.index;
    this.#errors = runner.run(this.#tellErrors());
    this.#forgetLength = node.onLength((length) => {
      this.#state.setDiskLength(length);
      sharingCalls().signal(this.#changed);
    });
    this.failure = new Promise((_, reject) => {
      this.#fail = reject;
    });
    this.failure.catch(() => {});
    this.#ports = new PortServer(node, thread, runner, { keepsCompleted: true });
    this.#controls = Array.from({ length: device.queueCount }, () => QueueControl.allocate());
    const queues = this.#controls.map((control, queue) => {
      const { port1, port2 } = new MessageChannel();
      const port = this.#ports.open();
      const data: QueueThreadData = { device, queue, port, control, orders: port2, pollUs };
      const ended = this.#startThread("queue-thread", data, [port2]);
      this.#queues.push(ended.finally(() => QueueControl.abandon(control)));
      return { control, orders: port1 };
    });
    const data: ProtocolThreadData = { device, listener, stop: this.#stop, changed: this.#changed, queues };
    this.#protocol = this.#startThread(
      "protocol-thread",
      data,
      queues.map(({ orders }) => orders),
    );
    process.on("exit", this.#wakeAll);
  }

  /** Whether requests wait: after {@link stop}, or after an error whose policy says so. */
  get stopped(): boolean {
    return this.#state.stopped;
  }

  /** Begins no more requests of the guest; those in flight end. */
  stop(): void {
    this.#state.stop();
  }

  /** Goes on, and does the requests again that an error has stopped. */
  resume(): void {
    this.#takeErrors();
    this.#state.resume();
  }

  *#tellErrors(): Co<void> {
    while (!this.#closing) {
      this.#takeErrors();
      yield* until(() => this.#closing || this.#state.hasIoErrors);
    }
  }

  #takeErrors(): void {
    for (const report of this.#state.takeIoErrors()) this.#options.ioError?.(report);
  }

  /** Serves no more: requests in flight end, connections are closed, and the socket is removed. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    const { path, runner, thread } = this.#options;
    this.#forgetLength();
    sharingCalls().signal(this.#stop);
    await this.#protocol;
    this.#wakeAll();
    await Promise.all(this.#queues);
    this.#closing = true;
    thread.ring();
    await this.#errors;
    process.off("exit", this.#wakeAll);
    await runner.run(this.#ports.close());
    rmSync(path, { force: true });
    sharingCalls().close(this.#listener);
    sharingCalls().close(this.#stop);
    sharingCalls().close(this.#changed);
    for (const { event } of this.#controls) sharingCalls().close(event);
  }

  /** A process does not end while one of its threads sleeps in a system call. */
  readonly #wakeAll = (): void => {
    sharingCalls().signal(this.#stop);
    for (const control of this.#controls) QueueControl.end(control);
  };

  /** Resolves when the thread has ended, in whatever way. */
  #startThread(name: string, workerData: unknown, transferList: WorkerOptions["transferList"] = []): Promise<void> {
    // Sources, build and bundle are laid out alike; only the ending differs.
    const ending = extname(import.meta.url);
    return new Promise((resolve) => {
      const worker = new Worker(new URL(`./${name}${ending}`, import.meta.url), {
        workerData,
        transferList,
        ...(ending === ".ts"
          ? { execArgv: ["--conditions=spindle-source", "--disable-warning=ExperimentalWarning"] }
          : {}),
      });
      worker.on("message", (line: string) => this.#options.report?.(line));
      worker.on("error", (error) => this.#fail(error));
      worker.on("exit", () => resolve());
    });
  }
}

function describeDevice({ node, threads, serial, rerror, werror }: VhostUserOptions, queueCount: number) {
  return createVirtioBlk({
    memory: { regions: [] },
    threads,
    diskLength: node.length,
    readOnly: node.readOnly,
    queueCount,
    queueSizeMax: QUEUE_SIZE_MAX,
    segmentsMax: SEGMENTS_MAX,
    packed: true,
    discardGranularity: Math.max(512, node.trackingUnit),
    ...(serial === undefined ? {} : { serial }),
    ...(rerror === undefined ? {} : { rerror }),
    ...(werror === undefined ? {} : { werror }),
    // Front ends keep the driver's choice and do not tell it again to a backend that was restarted.
    configWce: false,
  });
}
