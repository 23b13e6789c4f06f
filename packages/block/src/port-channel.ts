/**
 * The shared memory between a disk port and the owner of its graph: one ring of requests, one of replies, and slots that
 * carry the data of requests that the port cannot serve itself.
 */
import { alignUp, type ErrnoName } from "@spindle/base";
import { Ring } from "@spindle/shared-memory";

/** Requests that one port has under way with the owner at most. */
export const PORT_SLOTS = 32;

/** The data that one such request carries at most; longer ones are cut. */
export const PORT_SLOT_BYTES: number = 128 * 1024;

const REQUEST_WIDTH = 5;
const REPLY_WIDTH = 2;

export interface PortChannelHandle {
  readonly memory: SharedArrayBuffer;
}

export const PortOperation = { read: 0, write: 1, writeZeroes: 2, discard: 3, flush: 4 } as const;
export type PortOperation = (typeof PortOperation)[keyof typeof PortOperation];

/** Errno names as they cross in a reply; the index is the number, 0 is success. */
export const PORT_ERRNOS: readonly (ErrnoName | "")[] = [
  "",
  "EIO",
  "ENOSPC",
  "EROFS",
  "EINVAL",
  "ENOTSUP",
  "ECANCELED",
  "EFBIG",
  "EACCES",
  "EPERM",
  "ETIMEDOUT",
  "ENOMEDIUM",
];

export const FLAG_MAY_UNMAP = 1;
export const FLAG_FUA = 2;

/** The first cache line holds who the client is. */
const REQUESTS_START = 64;
const REPLIES_START: number = REQUESTS_START + Ring.bytes(PORT_SLOTS, REQUEST_WIDTH);
const DATA_START: number = alignUp(REPLIES_START + Ring.bytes(PORT_SLOTS, REPLY_WIDTH), 4096);

export class PortChannel {
  /** Records of slot, operation, offset, length, flags. */
  readonly requests: Ring;
  /** Records of slot, index into {@link PORT_ERRNOS}. */
  readonly replies: Ring;
  readonly #memory: SharedArrayBuffer;
  /** The client's index in the thread table plus one. */
  readonly #client: Int32Array;

  static create(): PortChannelHandle {
    return { memory: new SharedArrayBuffer(DATA_START + PORT_SLOTS * PORT_SLOT_BYTES) };
  }

  constructor(handle: PortChannelHandle) {
    this.#memory = handle.memory;
    this.#client = new Int32Array(handle.memory, 0, 1);
    this.requests = new Ring(handle.memory, REQUESTS_START, PORT_SLOTS, REQUEST_WIDTH);
    this.replies = new Ring(handle.memory, REPLIES_START, PORT_SLOTS, REPLY_WIDTH);
  }

  /** The index in the thread table of the thread that uses the port; -1 before it has connected. */
  get clientThread(): number {
    return Atomics.load(this.#client, 0) - 1;
  }
  set clientThread(index: number) {
    Atomics.store(this.#client, 0, index + 1);
  }

  /** The memory of one slot. */
  data(slot: number, length: number): Uint8Array {
    return new Uint8Array(this.#memory, DATA_START + slot * PORT_SLOT_BYTES, length);
  }
}
