/** What the threads of the guest I/O bench tell each other: the work at start, and after that one word and histograms. */
import type { DiskPortHandle } from "@spindle/block";
import { type GuestHandle, type VirtioBlkHandle } from "@spindle/virtio-blk";
import { LatencyHistogram } from "@spindle/workload";

export const REQUEST_BYTES = 4096;

export type GuestOperation = "read" | "write";

/** While a phase lasts, latencies go into its histogram; those of `idle` are thrown away. */
export const PHASES = ["idle", "alone", "streaming"] as const;
export type Phase = (typeof PHASES)[number];

export interface GuestWork {
  readonly guest: GuestHandle;
  readonly operation: GuestOperation;
  readonly depth: number;
  readonly seed: number;
  /** The guest's own part of the disk: where it begins and how long it is, in bytes. */
  readonly start: number;
  readonly length: number;
  readonly control: SharedArrayBuffer;
  readonly latencies: readonly SharedArrayBuffer[];
}

export interface QueueWork {
  readonly device: VirtioBlkHandle;
  readonly port: DiskPortHandle;
  /** The index that the port was opened for. */
  readonly control: SharedArrayBuffer;
}

/** The word that moves all threads from phase to phase. */
export class PhaseControl {
  readonly #word: Int32Array;

  static allocate(): SharedArrayBuffer {
    return new SharedArrayBuffer(4);
  }

  constructor(memory: SharedArrayBuffer) {
    this.#word = new Int32Array(memory);
  }

  enter(phase: Phase | "stop"): void {
    Atomics.store(this.#word, 0, phase === "stop" ? -1 : PHASES.indexOf(phase));
  }

  get phaseIndex(): number {
    return Math.max(0, Atomics.load(this.#word, 0));
  }

  get stopped(): boolean {
    return Atomics.load(this.#word, 0) < 0;
  }
}

export function allocateLatencies(): SharedArrayBuffer[] {
  return PHASES.map(() => LatencyHistogram.allocate());
}
