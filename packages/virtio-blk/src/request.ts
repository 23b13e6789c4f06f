/**
 * From descriptor chain to request (virtio 1.2 §5.2.6). The parser knows the bytes and no storage. It assumes nothing
 * about framing: the header may stand in sixteen buffers and the status in the same buffer as the data.
 */
import { ByteView } from "@spindle/base";
import { IoVector } from "@spindle/block";
import { MAX_SEGMENTS } from "./config-space.ts";
import type { DescriptorChain } from "./descriptor-chain.ts";
import type { GuestMemory, GuestWindow } from "./guest-memory.ts";

export const VIRTIO_BLK_T_IN = 0;
export const VIRTIO_BLK_T_OUT = 1;
export const VIRTIO_BLK_T_FLUSH = 4;
/** What old drivers send for a flush. */
export const VIRTIO_BLK_T_FLUSH_OUT = 5;
export const VIRTIO_BLK_T_GET_ID = 8;
export const VIRTIO_BLK_T_DISCARD = 11;
export const VIRTIO_BLK_T_WRITE_ZEROES = 13;

/** The flag of a write zeroes segment that lets the device deallocate. */
export const VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP = 1;

/** Bytes of type, reserved and sector. */
export const REQUEST_HEADER_BYTES = 16;
/** Bytes of one segment of a discard or write zeroes request. */
export const SEGMENT_BYTES = 16;

/** One range of a discard or write zeroes request. */
export interface Segment {
  readonly sector: number;
  readonly sectorCount: number;
  readonly flags: number;
}

/** The segments of a discard or write zeroes request. */
export interface Segments {
  /** How many the request says it has; a fraction when the data ends inside of one. */
  readonly count: number;
  /** All of them, unless the number is a fraction or larger than the device takes: none then. */
  readonly list: readonly Segment[];
}

/** A request in private memory, but for its data, which stays in guest memory. */
export class Request {
  readonly head: number;
  /** Descriptors of a packed ring that the chain takes. */
  readonly slots: number;
  readonly type: number;
  /** In units of 512 bytes. Above 2^53 it is rounded, and beyond every disk. */
  readonly sector: number;
  /** What is written to the disk, or where what is read goes. */
  readonly data: IoVector;
  readonly segments: Segments | undefined;
  readonly #status: GuestWindow;
  readonly #writableLength: number;

  constructor(
    chain: DescriptorChain,
    status: GuestWindow,
    content: { type: number; sector: number; data: IoVector; segments: Segments | undefined },
  ) {
    this.head = chain.head;
    this.slots = chain.slots;
    this.type = content.type;
    this.sector = content.sector;
    this.data = content.data;
    this.segments = content.segments;
    this.#status = status;
    this.#writableLength = chain.writableLength;
  }

  /**
   * Writes the status byte.
   * @param written bytes of data that the device wrote from the start of the writable buffers
   * @returns what the used ring says: the bytes written in one piece from the start. Where data before the status was
   *   not written the status does not count, so that a driver never takes its own old bytes for the device's.
   */
  complete(status: number, written: number): number {
    this.#status.setU8(0, status);
    return written === this.#writableLength - 1 ? this.#writableLength : written;
  }
}

/** What came out of a chain: a request, one that can only be refused, or nothing that could be answered. */
export type Parsed =
  | { readonly kind: "request"; readonly request: Request }
  /** The request makes no sense, but there is a status byte to say so. */
  | { readonly kind: "malformed"; readonly request: Request }
  | { readonly kind: "unanswerable" };

const NO_DATA = new IoVector([]);
const UNANSWERABLE: Parsed = { kind: "unanswerable" };
/** Makes an old barrier request the plain request that it also is. */
const TYPE_WITHOUT_BARRIER = 0x7fff_ffff;

/** Parses chains into requests; one for each queue, because it keeps a scratch buffer. */
export class RequestParser {
  readonly #memory: GuestMemory;
  readonly #scratch: ByteView = new ByteView(new Uint8Array(MAX_SEGMENTS * SEGMENT_BYTES));

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  parse(chain: DescriptorChain): Parsed {
    const status = this.#statusWindow(chain);
    if (status === undefined) return UNANSWERABLE;
    if (!this.#copyReadable(chain, 0, REQUEST_HEADER_BYTES)) return malformed(chain, status);
    const type = this.#scratch.u32le(0) & TYPE_WITHOUT_BARRIER;
    const sector = this.#scratch.u32le(8) + this.#scratch.u32le(12) * 2 ** 32;
    let data: IoVector | undefined = NO_DATA;
    let segments: Segments | undefined;
    if (type === VIRTIO_BLK_T_IN || type === VIRTIO_BLK_T_GET_ID) data = this.#writableData(chain);
    else if (type === VIRTIO_BLK_T_OUT) data = this.#readableData(chain);
    else if (type === VIRTIO_BLK_T_DISCARD || type === VIRTIO_BLK_T_WRITE_ZEROES) {
      segments = this.#segments(chain);
      if (segments === undefined) return malformed(chain, status);
    }
    if (data === undefined) return malformed(chain, status);
    return { kind: "request", request: new Request(chain, status, { type, sector, data, segments }) };
  }

  /** The status is the last writable byte. */
  #statusWindow(chain: DescriptorChain): GuestWindow | undefined {
    if (chain.writableLength === 0) return undefined;
    const last = chain.count - 1;
    return this.#memory.window((chain.addresses[last] as number) + (chain.lengths[last] as number) - 1, 1);
  }

  #readableData(chain: DescriptorChain): IoVector | undefined {
    return this.#gather(chain, 0, REQUEST_HEADER_BYTES, chain.readableLength - REQUEST_HEADER_BYTES);
  }

  #writableData(chain: DescriptorChain): IoVector | undefined {
    return this.#gather(chain, chain.readableCount, 0, chain.writableLength - 1);
  }

  #segments(chain: DescriptorChain): Segments | undefined {
    const length = chain.readableLength - REQUEST_HEADER_BYTES;
    const count = length / SEGMENT_BYTES;
    if (!Number.isInteger(count) || count > MAX_SEGMENTS) return { count, list: [] };
    if (!this.#copyReadable(chain, REQUEST_HEADER_BYTES, length)) return undefined;
    const list = Array.from({ length: count }, (_, index) => ({
      sector: this.#scratch.u32le(SEGMENT_BYTES * index) + this.#scratch.u32le(SEGMENT_BYTES * index + 4) * 2 ** 32,
      sectorCount: this.#scratch.u32le(SEGMENT_BYTES * index + 8),
      flags: this.#scratch.u32le(SEGMENT_BYTES * index + 12),
    }));
    return { count, list };
  }

  /** Views of `length` bytes, `skip` bytes behind the start of buffer `first`. Undefined when some are not memory. */
  #gather(chain: DescriptorChain, first: number, skip: number, length: number): IoVector | undefined {
    const views: Uint8Array[] = [];
    let before = skip;
    let left = length;
    for (let index = first; left > 0; index++) {
      const whole = chain.lengths[index] as number;
      if (before >= whole) {
        before -= whole;
        continue;
      }
      const take = Math.min(whole - before, left);
      if (!this.#memory.translate((chain.addresses[index] as number) + before, take, views)) return undefined;
      before = 0;
      left -= take;
    }
    return new IoVector(views);
  }

  /** Copies readable bytes to the scratch buffer. False when there are not as many, or they are not memory. */
  #copyReadable(chain: DescriptorChain, skip: number, length: number): boolean {
    if (chain.readableLength < skip + length) return false;
    let before = skip;
    let copied = 0;
    for (let index = 0; copied < length; index++) {
      const whole = chain.lengths[index] as number;
      if (before >= whole) {
        before -= whole;
        continue;
      }
      const take = Math.min(whole - before, length - copied);
      const address = (chain.addresses[index] as number) + before;
      if (!this.#memory.copy(address, take, this.#scratch.bytes, copied)) return false;
      before = 0;
      copied += take;
    }
    return true;
  }
}

function malformed(chain: DescriptorChain, status: GuestWindow): Parsed {
  const content = { type: 0, sector: 0, data: NO_DATA, segments: undefined };
  return { kind: "malformed", request: new Request(chain, status, content) };
}
