/**
 * The devices that a program serves to a machine, as monitors steer them: `stop`, `cont`, `query-status`, and the events
 * of errors. QEMU stops the whole machine; here it is the requests of its disk that wait.
 */
import { type ErrnoName, errnoText } from "@spindle/base";

/** What the program gives. */
export interface Machine {
  /** The node that the device shows. */
  readonly nodeName: string;
  /** Whether requests are held back. */
  readonly stopped: boolean;
  stop(): void;
  /** Goes on, and does again what an error has stopped. */
  resume(): void;
}

/** An error of a request of the machine, and what was done about it. */
export interface MachineError {
  readonly operation: "read" | "write";
  readonly action: "report" | "ignore" | "stop";
  readonly nospace: boolean;
  readonly reason: ErrnoName;
}

export type RunState = "running" | "paused" | "io-error";

export class MachineControl {
  readonly #machine: Machine;
  readonly #emit: (event: string, data?: object) => void;
  #state: RunState = "running";

  constructor(machine: Machine, emit: (event: string, data?: object) => void) {
    this.#machine = machine;
    this.#emit = emit;
  }

  get state(): RunState {
    return this.#state;
  }

  stop(): void {
    if (this.#state !== "running") return;
    this.#machine.stop();
    this.#enter("paused");
  }

  resume(): void {
    this.#machine.resume();
    if (this.#state !== "running") this.#enter("running");
  }

  tell({ operation, action, nospace, reason }: MachineError): void {
    const { nodeName } = this.#machine;
    const why = { nospace, reason: errnoText(reason) };
    this.#emit("BLOCK_IO_ERROR", { device: "", "node-name": nodeName, operation, action, ...why });
    // It may have been resumed before this was heard of.
    if (action === "stop" && this.#state === "running" && this.#machine.stopped) this.#enter("io-error");
  }

  #enter(state: RunState): void {
    this.#state = state;
    this.#emit(state === "running" ? "RESUME" : "STOP");
  }
}
