/**
 * The entry of a copy worker: one long piscina task. It is told to open a chain, to copy, and to close again through
 * comlink; while it copies, the thread sleeps on its doorbell and nowhere else.
 */
import type { MessagePort } from "node:worker_threads";
import { assert, SyncRunner } from "@spindle/base";
import { type BlockNode, closeShared, openShared } from "@spindle/block";
import { nodeEnvironment } from "@spindle/host-node";
import { type Thread, ThreadTable } from "@spindle/shared-memory";
import { expose } from "comlink";
import nodeEndpoint from "comlink/dist/esm/node-adapter.mjs";
import { CopyChannel } from "./copy-channel.ts";
import type { CopyControl, CopyWorkerOptions } from "./copy-control.ts";
import { CopyServer } from "./copy-server.ts";
import { MeteredWaiter } from "./metered-waiter.ts";
import { workerDrivers } from "./worker-drivers.ts";

class CopyWorker implements CopyControl {
  readonly #ended: () => void;
  readonly #failed: (error: unknown) => void;
  readonly #environment = nodeEnvironment();
  #opened: { thread: Thread; chain: BlockNode; runner: SyncRunner; server: CopyServer } | undefined;

  constructor(ended: () => void, failed: (error: unknown) => void) {
    this.#ended = ended;
    this.#failed = failed;
  }

  ready(): void {}

  open(options: CopyWorkerOptions): number {
    const { clock } = this.#environment;
    const thread = new ThreadTable(options.threads).attach();
    try {
      const waiter = new MeteredWaiter(thread, clock);
      const runner = new SyncRunner(clock, waiter);
      const chain = runner.run(openShared(options.chain, workerDrivers(), this.#environment));
      const ringOwner = (): void => thread.table.ring(options.ownerThread);
      const channel = new CopyChannel(options.channel);
      const server = new CopyServer({ ...options, channel, chain, runner, waiter, ringOwner });
      this.#opened = { thread, chain, runner, server };
      return thread.index;
    } catch (error) {
      thread.detach();
      throw error;
    }
  }

  serve(): void {
    assert(this.#opened !== undefined, "a copy worker serves before it has opened a chain");
    const { runner, server } = this.#opened;
    try {
      runner.run(server.serve());
    } catch (error) {
      // The owner takes the worker for dead, and gives its place in the thread table back.
      this.#failed(error);
      throw error;
    }
  }

  close(): void {
    const opened = this.#opened;
    this.#opened = undefined;
    if (opened !== undefined) {
      opened.runner.run(closeShared(opened.chain));
      opened.thread.detach();
    }
    this.#ended();
  }
}

/** What piscina calls with the worker's end of the control channel. It ends after `close`. */
export default async function copyTask({ port }: { port: MessagePort }): Promise<void> {
  try {
    await new Promise<void>((resolve, reject) => expose(new CopyWorker(resolve, reject), nodeEndpoint(port)));
  } finally {
    // The reply to `close` is still on its way.
    setImmediate(() => port.close());
  }
}
