/** How far a stream job is, and how fast: made from its offset at the times at which somebody looks. */
import type { IoStatus, Job, JobStatus } from "@spindle/jobs";

export interface StreamProgress {
  /** Bytes of the disk that are done, from its start; it never gets less. */
  readonly transferred: number;
  /** Bytes of the disk. */
  readonly size: number;
  /** Seconds since the start. */
  readonly elapsed: number;
  /** Bytes per second in the last few seconds. */
  readonly rate: number;
  /** Seconds that are left at this rate; null while there is no rate. */
  readonly eta: number | null;
  /** QEMU's states: `running`, `paused` and so on. */
  readonly status: JobStatus;
  /** `failed` or `nospace` when an error has paused the job, as the policies `stop` and `enospc` want it. */
  readonly ioStatus: IoStatus;
}

/** The rate is that of the last so many milliseconds. */
const WINDOW_MS = 3000;
/** Looks that follow each other sooner than this do not add to the memory of the rate. */
const SAMPLE_MS = 100;

/** What a job tells of itself; its offset may go back. */
type JobProgress = Pick<Job, "offset" | "len" | "status" | "ioStatus">;

interface Sample {
  readonly timeMs: number;
  readonly transferred: number;
}

export class ProgressMeter {
  readonly #startMs: number;
  #samples: Sample[];
  #most = 0;

  constructor(startMs: number) {
    this.#startMs = startMs;
    this.#samples = [{ timeMs: startMs, transferred: 0 }];
  }

  /** The progress at `nowMs`. */
  look(nowMs: number, { offset, len: size, status, ioStatus }: JobProgress): StreamProgress {
    const transferred = Math.max(this.#most, offset);
    this.#most = transferred;
    const oldest = this.#samples.findLast(({ timeMs }) => nowMs - timeMs >= WINDOW_MS) ?? (this.#samples[0] as Sample);
    const seconds = (nowMs - oldest.timeMs) / 1000;
    const rate = seconds > 0 ? (transferred - oldest.transferred) / seconds : 0;
    this.#remember({ timeMs: nowMs, transferred });
    return {
      transferred,
      size,
      elapsed: (nowMs - this.#startMs) / 1000,
      rate: Math.round(rate),
      eta: transferred >= size && size > 0 ? 0 : rate > 0 ? (size - transferred) / rate : null,
      status,
      ioStatus,
    };
  }

  #remember(sample: Sample): void {
    const newest = this.#samples.at(-1) as Sample;
    if (sample.timeMs - newest.timeMs < SAMPLE_MS) return;
    const first = this.#samples.findLastIndex(({ timeMs }) => sample.timeMs - timeMs >= WINDOW_MS);
    this.#samples = [...this.#samples.slice(Math.max(0, first)), sample];
  }
}
