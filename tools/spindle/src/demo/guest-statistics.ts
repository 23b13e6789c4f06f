/**
 * What the guests count, in shared memory: written by each guest's thread, read by the demo's. The demo moves all
 * guests from phase to phase by one word.
 */
import { LatencyHistogram } from "@spindle/workload";

export const PHASES = ["before", "during", "after"] as const;
export type Phase = (typeof PHASES)[number];

/** The phase's index plus one: what happens before the first phase is not counted. */
const PHASE_WORD = 0;
const STOP_WORD = 1;
const WRONG_WORD = 2;

export interface GuestStatisticsHandle {
  readonly control: SharedArrayBuffer;
  /** One histogram a phase. */
  readonly latencies: readonly SharedArrayBuffer[];
}

export class GuestStatistics {
  readonly handle: GuestStatisticsHandle;
  readonly #control: Int32Array;
  readonly #verified: BigInt64Array;
  readonly #latencies: readonly LatencyHistogram[];

  static allocate(): GuestStatisticsHandle {
    return { control: new SharedArrayBuffer(32), latencies: PHASES.map(() => LatencyHistogram.allocate()) };
  }

  constructor(handle: GuestStatisticsHandle) {
    this.handle = handle;
    this.#control = new Int32Array(handle.control);
    this.#verified = new BigInt64Array(handle.control, 16, 1);
    this.#latencies = handle.latencies.map((memory) => new LatencyHistogram(memory));
  }

  enter(phase: Phase): void {
    Atomics.store(this.#control, PHASE_WORD, PHASES.indexOf(phase) + 1);
  }

  stop(): void {
    Atomics.store(this.#control, STOP_WORD, 1);
  }

  get stopped(): boolean {
    return Atomics.load(this.#control, STOP_WORD) === 1;
  }

  completed(durationMs: number): void {
    this.#latencies[Atomics.load(this.#control, PHASE_WORD) - 1]?.add(durationMs);
  }

  verified(sectors: number): void {
    Atomics.add(this.#verified, 0, BigInt(sectors));
  }

  wrong(): void {
    Atomics.add(this.#control, WRONG_WORD, 1);
  }

  get sectorsVerified(): number {
    return Number(Atomics.load(this.#verified, 0));
  }

  get sectorsWrong(): number {
    return Atomics.load(this.#control, WRONG_WORD);
  }

  latency(phase: Phase): LatencyHistogram {
    return this.#latencies[PHASES.indexOf(phase)] as LatencyHistogram;
  }
}
