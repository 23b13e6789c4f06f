/** States of a disk that its image keeps inside of itself, for formats that can. */
import type { Co } from "@spindle/base";

export interface InternalSnapshot {
  /** Unique in its image. */
  readonly id: string;
  /** What the user calls it; several may have one name. */
  readonly name: string;
  /** When it was taken: seconds since 1970, and nanoseconds. */
  readonly dateSeconds: number;
  readonly dateNanoseconds: number;
  /** The clock of the machine: nanoseconds. */
  readonly machineClock: bigint;
  /** Bytes. */
  readonly machineStateSize: number;
  /** Instructions that the machine had run; undefined when nobody counted. */
  readonly instructions: bigint | undefined;
}

/** Changes are made while nothing else is in flight on the node, and are durable when they end. */
export interface InternalSnapshots {
  /** In the order of the image. */
  list(): readonly InternalSnapshot[];
  /** Keeps the disk as it is now. @throws {BlockError} EINVAL when a cluster would have too many users, EFBIG, ENOSPC. */
  create(name: string, dateSeconds: number, dateNanoseconds: number): Co<void>;
  /**
   * Lets the disk of an image that was opened read-only show what it was, as far as its length now goes, until it is
   * closed. @throws {BlockError} ENOENT when there is no such id, EIO when its table cannot be read.
   */
  show(id: string): Co<void>;
  /** Makes the disk what it was: length and content. @throws {BlockError} ENOENT when there is no such id. */
  apply(id: string): Co<void>;
  /** Gives a snapshot up, and the space that nothing else uses. @throws {BlockError} ENOENT when there is no such id. */
  remove(id: string): Co<void>;
}
