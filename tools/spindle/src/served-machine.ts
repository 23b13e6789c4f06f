/** The machine that `spindle serve` serves a disk to, as its monitors see it. */
import { errnoText } from "@spindle/base";
import type { Machine, Monitor } from "@spindle/monitor";
import type { VhostUserServer } from "@spindle/vhost-user";
import type { IoErrorReport } from "@spindle/virtio-blk";
import { complain } from "./output.ts";

export class ServedMachine implements Machine {
  readonly nodeName: string;
  /** Told of errors, when there is one. */
  monitor: Monitor | undefined;
  readonly #server: VhostUserServer;
  #waiting = false;

  constructor(server: VhostUserServer, nodeName: string) {
    this.#server = server;
    this.nodeName = nodeName;
  }

  get stopped(): boolean {
    return this.#server.stopped;
  }

  stop(): void {
    this.#server.stop();
  }

  resume(): void {
    this.#server.resume();
    this.#waiting = false;
  }

  /** A request of the guest has failed. */
  failed(error: IoErrorReport): void {
    this.monitor?.tellIoError(error);
    if (error.action !== "stop" || this.#waiting) return;
    this.#waiting = true;
    complain(`the guest's requests wait for 'cont': a ${error.operation} has failed: ${errnoText(error.reason)}`);
  }
}
