/** What the driver's thread of the vhost-user bench is given, and what it tells. */

export const REQUEST_BYTES = 4096;

export interface DriverWork {
  readonly path: string;
  readonly queues: number;
  /** Requests in flight in each queue. */
  readonly depth: number;
  readonly operation: "read" | "write";
  /** Bytes of the disk from its start on. */
  readonly workingSet: number;
  readonly seconds: number;
}

export interface DriverReport {
  /** Thousand requests a second. */
  readonly kiops: number;
  readonly p50Us: number;
  readonly p99Us: number;
}
