/** What the threads of the guest I/O bench are given at their start, and the word that moves them from phase to phase. */
import type { DiskPortHandle } from "@spindle/block";
import type { GuestHandle, VirtioBlkHandle } from "@spindle/virtio-blk";
import { LatencyHistogram } from "@spindle/workload";

export const REQUEST_BYTES = 4096;

export type GuestOperation = "read" | "write";

/** Latencies go into the histogram of the phase in which they end. */
export const PHASES = ["warm-up", "alone", "streaming"] as const;
export type Phase = (typeof PHASES)[number];

export interface GuestWork {
  readonly guest: GuestHandle;
  readonly queue: number;
  readonly operation: GuestOperation;
  readonly depth: number;
  /** The part of the disk in which the guest works: bytes, multiples of {@link REQUEST_BYTES}. */
  readonly start: number;
  readonly length: number;
  readonly control: SharedArrayBuffer;
  /** One histogram a phase. */
  readonly latencies: readonly SharedArrayBuffer[];
}

export interface QueueWork {
  readonly device: VirtioBlkHandle;
  readonly queue: number;
  readonly port: DiskPortHandle;
  readonly control: SharedArrayBuffer;
}

const STOPPED = -1;

export class PhaseControl {
  readonly memory: SharedArrayBuffer;
  readonly #word: Int32Array;

  constructor(memory: SharedArrayBuffer = new SharedArrayBuffer(4)) {
    this.memory = memory;
    this.#word = new Int32Array(memory);
  }

  enter(phase: Phase): void {
    Atomics.store(this.#word, 0, PHASES.indexOf(phase));
  }

  stop(): void {
    Atomics.store(this.#word, 0, STOPPED);
  }

  /** The number of the phase; of the last one when it is over. */
  get phaseIndex(): number {
    const index = Atomics.load(this.#word, 0);
    return index === STOPPED ? PHASES.length : index;
  }

  get stopped(): boolean {
    return Atomics.load(this.#word, 0) === STOPPED;
  }
}

/** One histogram a phase, and one more for what ends after the last. */
export function allocateLatencies(): SharedArrayBuffer[] {
  return [...PHASES, "over"].map(() => LatencyHistogram.allocate());
}
