/**
 * Memory that the front end keeps for the back end over its restarts, with a part for each queue that says which requests
 * are in flight (`inflight-log.ts`). The back end makes it, the front end gives it back with every connection.
 */
import { fstatSync } from "node:fs";
import { alignUp, BlockError } from "@spindle/base";
import { sharingCalls } from "@spindle/host-node";
import { INFLIGHT_ENTRY_BYTES, INFLIGHT_HEADER_BYTES } from "./inflight-log.ts";

const QUEUE_ALIGNMENT = 64;
const PAGE_SIZE = 4096;

/** What the front end says of the memory. */
export interface InflightDescription {
  /** Bytes. */
  readonly length: number;
  /** In the file that comes with it. */
  readonly offset: number;
  readonly queues: number;
  /** Entries of each queue. */
  readonly size: number;
}

/** Where one queue's part stands, for any thread of the process. */
export interface InflightPlace {
  readonly address: number;
  /** Entries of the ring. */
  readonly size: number;
}

/** Bytes that so many queues of so many entries take. */
export function inflightBytes(queues: number, size: number): number {
  return alignUp(queues * queueBytes(size), PAGE_SIZE);
}

export class InflightRegion {
  readonly #address: number;
  readonly #description: InflightDescription;

  /**
   * Maps what the front end has kept. The descriptor stays the caller's.
   * @throws {BlockError} EINVAL when it is no such file, or the numbers make no sense.
   */
  constructor(fd: number, description: InflightDescription) {
    const { length, offset, queues, size } = description;
    const stat = fstatSync(fd);
    if (!stat.isFile() || offset % PAGE_SIZE !== 0 || offset + length > stat.size)
      throw new BlockError("EINVAL", "the memory for requests in flight is not what the front end says");
    if (queues === 0 || size === 0 || length < queues * queueBytes(size))
      throw new BlockError("EINVAL", "the memory for requests in flight is too short");
    try {
      this.#address = sharingCalls().map(fd, offset, length);
    } catch (error) {
      const reason = (error as Error).message;
      throw new BlockError("EINVAL", `the memory for requests in flight cannot be mapped: ${reason}`, {}, error);
    }
    this.#description = description;
  }

  /** The part of one queue; undefined when there is none for a queue of so many entries. */
  place(queue: number, size: number): InflightPlace | undefined {
    if (queue >= this.#description.queues || size > this.#description.size) return undefined;
    return { address: this.#address + queue * queueBytes(this.#description.size), size };
  }

  /** No thread has a view of it any more. */
  unmap(): void {
    sharingCalls().unmap(this.#address, this.#description.length);
  }
}

function queueBytes(size: number): number {
  return alignUp(INFLIGHT_HEADER_BYTES + INFLIGHT_ENTRY_BYTES * size, QUEUE_ALIGNMENT);
}
