/** What jobs tell a monitor, and the records that its queries answer: QEMU's names, keys and values (job.json, block-core.json). */
import type { JobStatus } from "./job-state.ts";

export type JobType = "stream";

/** `BLOCK_JOB_COMPLETED`, `BLOCK_JOB_CANCELLED` and `BLOCK_JOB_READY`. */
export interface BlockJobEventData {
  readonly type: JobType;
  readonly device: string;
  /** Bytes. */
  readonly len: number;
  /** Bytes: the first one that is not done. */
  readonly offset: number;
  /** Bytes per second, 0 for no limit. */
  readonly speed: number;
  readonly error?: string;
}

export type ErrorAction = "report" | "ignore" | "stop";

export type JobEvent =
  | { readonly event: "JOB_STATUS_CHANGE"; readonly data: { readonly id: string; readonly status: JobStatus } }
  | {
      readonly event: "BLOCK_JOB_COMPLETED" | "BLOCK_JOB_CANCELLED" | "BLOCK_JOB_READY";
      readonly data: BlockJobEventData;
    }
  | { readonly event: "BLOCK_JOB_PENDING"; readonly data: { readonly type: JobType; readonly id: string } }
  | {
      readonly event: "BLOCK_JOB_ERROR";
      readonly data: {
        readonly device: string;
        readonly operation: "read" | "write";
        readonly action: ErrorAction;
      };
    };

export type IoStatus = "ok" | "failed" | "nospace";

/** One entry of `query-block-jobs`. */
export interface BlockJobInfo {
  readonly type: JobType;
  readonly device: string;
  readonly len: number;
  readonly offset: number;
  readonly busy: boolean;
  readonly paused: boolean;
  readonly speed: number;
  readonly "io-status": IoStatus;
  readonly ready: boolean;
  readonly status: JobStatus;
  readonly "auto-finalize": boolean;
  readonly "auto-dismiss": boolean;
  readonly error?: string;
  /** Counters of the job's own, for those who look closer; every one only grows, except those that tell a present size. */
  readonly "x-statistics"?: Readonly<Record<string, number | string>>;
}

/** One entry of `query-jobs`. */
export interface JobInfo {
  readonly id: string;
  readonly type: JobType;
  readonly status: JobStatus;
  readonly "current-progress": number;
  readonly "total-progress": number;
  readonly error?: string;
}
