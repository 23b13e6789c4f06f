/** A machine whose requests are only counted as held back, for the monitor's side of it. */
import type { Machine } from "../src/index.ts";

export class TestMachine implements Machine {
  readonly nodeName = "disk0";
  stopped = false;

  stop(): void {
    this.stopped = true;
  }

  resume(): void {
    this.stopped = false;
  }
}
