/** What the driver's thread of the vhost-user bench is given, and what it tells. */

export interface DriverWork {
  readonly path: string;
  readonly queues: number;
  /** Requests in flight in each queue. */
  readonly depth: number;
  readonly operation: "read" | "write";
  /** Of each request. */
  readonly requestBytes: number;
  /** One after the other rather than at random. */
  readonly sequential: boolean;
  /** The driver looks for used buffers all the time and wants no interrupts. */
  readonly polled: boolean;
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
