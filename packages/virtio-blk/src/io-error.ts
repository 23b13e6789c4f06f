/**
 * What is done about an error of the disk: the policies that QEMU calls `rerror` and `werror`, and how the host hears of
 * errors. Each queue's server writes reports to a ring of its own in shared memory, and rings the host's doorbell.
 */
import type { ErrnoName } from "@spindle/base";
import { Ring } from "@spindle/shared-memory";

/**
 * `report`: the guest gets the error. `ignore`: the guest is told that all is well. `stop`: the request waits until the
 * host has resumed the device, and is done again. `enospc`: `stop` when there is no space left, `report` otherwise.
 */
export type ErrorPolicy = "report" | "ignore" | "stop" | "enospc";
/** What was done about one error. */
export type ErrorAction = "report" | "ignore" | "stop";

export const ERROR_POLICIES: readonly ErrorPolicy[] = ["report", "ignore", "stop", "enospc"];

/** One error of the disk, with the fields of QEMU's event BLOCK_IO_ERROR. */
export interface IoErrorReport {
  readonly queue: number;
  /** Flushes, discards and zeroes are writes. */
  readonly operation: "read" | "write";
  readonly action: ErrorAction;
  readonly nospace: boolean;
  readonly reason: ErrnoName;
  /** Bytes: where the request began, and how much it was for; 0 for a flush. */
  readonly offset: number;
  readonly length: number;
  /** Errors of the same queue before this one that the host did not hear of, because it had not looked for long. */
  readonly missed: number;
}

const ACTIONS: readonly ErrorAction[] = ["report", "ignore", "stop"];
const OPERATIONS = ["read", "write"] as const;
/** In an order that is the same on every thread; what is not here counts as EIO. */
const REASONS: readonly ErrnoName[] = [
  "EIO",
  "ENOSPC",
  "EROFS",
  "EINVAL",
  "ECANCELED",
  "EFBIG",
  "EACCES",
  "EPERM",
  "ETIMEDOUT",
  "ENOMEDIUM",
];

const CAPACITY = 8;
const FIELDS = 6;

/** What a policy says of an error. */
export function actionOf(policy: ErrorPolicy, reason: ErrnoName): ErrorAction {
  if (policy === "enospc") return reason === "ENOSPC" ? "stop" : "report";
  return policy;
}

/** The reports of one queue that the host has not taken yet. */
export class IoErrorRing {
  static readonly BYTES: number = Ring.bytes(CAPACITY, FIELDS);

  readonly #ring: Ring;
  readonly #record: Float64Array = new Float64Array(FIELDS);
  #missed = 0;

  constructor(memory: SharedArrayBuffer, byteOffset: number) {
    this.#ring = new Ring(memory, byteOffset, CAPACITY, FIELDS);
  }

  /** The server's side. A host that does not look costs reports, not memory. */
  push(report: Omit<IoErrorReport, "queue" | "missed" | "nospace">): void {
    const { operation, action, reason, offset, length } = report;
    const pushed = this.#ring.push([
      OPERATIONS.indexOf(operation),
      ACTIONS.indexOf(action),
      Math.max(0, REASONS.indexOf(reason)),
      offset,
      length,
      this.#missed,
    ]);
    this.#missed = pushed ? 0 : this.#missed + 1;
  }

  get empty(): boolean {
    return this.#ring.length === 0;
  }

  /** The host's side. */
  pop(queue: number): IoErrorReport | undefined {
    const record = this.#record;
    if (!this.#ring.pop(record)) return undefined;
    const reason = REASONS[record[2] as number] as ErrnoName;
    return {
      queue,
      operation: OPERATIONS[record[0] as number] as "read" | "write",
      action: ACTIONS[record[1] as number] as ErrorAction,
      nospace: reason === "ENOSPC",
      reason,
      offset: record[3] as number,
      length: record[4] as number,
      missed: record[5] as number,
    };
  }
}
