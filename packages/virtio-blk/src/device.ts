/**
 * The back half of the device: executes requests on a disk (virtio 1.2 §5.2.6). It knows the rules of the request types
 * and nothing of rings or bytes.
 */
import { type Co, type ErrnoName, isBlockError, SECTOR_SIZE, until } from "@spindle/base";
import { MAX_SEGMENT_SECTORS, MAX_SEGMENTS } from "./config-space.ts";
import type { Disk } from "./disk.ts";
import {
  type Request,
  type Segments,
  VIRTIO_BLK_T_DISCARD,
  VIRTIO_BLK_T_FLUSH,
  VIRTIO_BLK_T_FLUSH_OUT,
  VIRTIO_BLK_T_GET_ID,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
  VIRTIO_BLK_T_WRITE_ZEROES,
  VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
} from "./request.ts";
import type { RequestContext } from "./request-context.ts";
import { statusOfError, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP } from "./status.ts";

/** Bytes of the device identification that GET_ID reads. */
export const DEVICE_ID_BYTES = 20;

const WRITEBACK = {};
const WRITETHROUGH = { fua: true };

export class VirtioBlkDevice {
  readonly #disk: Disk;
  readonly #serial: Uint8Array;
  readonly #logicalBlockSize: number;

  /** @param options.serial up to 20 bytes; zeros are added behind a shorter one. */
  constructor(disk: Disk, options: { readonly serial: Uint8Array; readonly logicalBlockSize: number }) {
    this.#disk = disk;
    this.#serial = new Uint8Array(DEVICE_ID_BYTES);
    this.#serial.set(options.serial.subarray(0, DEVICE_ID_BYTES));
    this.#logicalBlockSize = options.logicalBlockSize;
  }

  /**
   * Executes a request. Errors of the disk become its status, as far as the error policy lets the driver see them; only
   * what is no BlockError is thrown.
   * @returns the status byte; undefined when somebody else will do the request again.
   */
  *execute(request: Request, context: RequestContext): Co<number | undefined> {
    for (;;) {
      try {
        return yield* this.#attempt(request, context);
      } catch (error) {
        if (!isBlockError(error)) throw error;
        const status = statusOfError(error.code);
        if (status === VIRTIO_BLK_S_UNSUPP) return status;
        const action = context.failed(describeError(request, error.code));
        if (action === "report") return status;
        if (action === "ignore") return this.#ignore(request);
        yield* until(() => !context.stopped || context.abandoned);
        if (context.abandoned) return abandonedStatus(context, status);
      }
    }
  }

  /** No coroutine of its own: each costs a request some tens of nanoseconds. */
  #attempt(request: Request, context: RequestContext): Co<number> {
    switch (request.type) {
      case VIRTIO_BLK_T_IN:
        return this.#read(request);
      case VIRTIO_BLK_T_OUT:
        return this.#write(request, context);
      case VIRTIO_BLK_T_FLUSH:
      case VIRTIO_BLK_T_FLUSH_OUT:
        return this.#flush();
      case VIRTIO_BLK_T_GET_ID:
        return this.#getId(request);
      case VIRTIO_BLK_T_DISCARD:
        return this.#discard(request.segments as Segments, context);
      case VIRTIO_BLK_T_WRITE_ZEROES:
        return this.#writeZeroes(request.segments as Segments, context);
      default:
        return unsupported();
    }
  }

  /** The driver is told that all is well: then at least it must not take its own old bytes for the disk's. */
  #ignore(request: Request): number {
    if (request.type === VIRTIO_BLK_T_IN) request.data.fill(0);
    return VIRTIO_BLK_S_OK;
  }

  /** Bytes of data that a request with this status wrote to guest memory. */
  bytesWritten(request: Request, status: number): number {
    if (status !== VIRTIO_BLK_S_OK) return 0;
    if (request.type === VIRTIO_BLK_T_IN) return request.data.length;
    return request.type === VIRTIO_BLK_T_GET_ID ? Math.min(request.data.length, DEVICE_ID_BYTES) : 0;
  }

  *#read(request: Request): Co<number> {
    if (!this.#inside(request.sector, request.data.length)) return VIRTIO_BLK_S_IOERR;
    if (request.data.length > 0) yield* this.#disk.read(request.sector * SECTOR_SIZE, request.data);
    return VIRTIO_BLK_S_OK;
  }

  *#write(request: Request, context: RequestContext): Co<number> {
    if (this.#disk.readOnly || !this.#inside(request.sector, request.data.length)) return VIRTIO_BLK_S_IOERR;
    if (request.data.length === 0) return VIRTIO_BLK_S_OK;
    const flags = context.writesDurable ? WRITETHROUGH : WRITEBACK;
    yield* this.#disk.write(request.sector * SECTOR_SIZE, request.data, flags);
    return VIRTIO_BLK_S_OK;
  }

  *#discard(segments: Segments, context: RequestContext): Co<number> {
    const refused = this.#refuseSegments(segments, context.discard, 0);
    if (refused !== undefined) return refused;
    for (const { sector, sectorCount } of segments.list)
      if (sectorCount > 0) yield* this.#disk.discard(sector * SECTOR_SIZE, sectorCount * SECTOR_SIZE);
    return VIRTIO_BLK_S_OK;
  }

  *#writeZeroes(segments: Segments, context: RequestContext): Co<number> {
    const refused = this.#refuseSegments(segments, context.writeZeroes, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
    if (refused !== undefined) return refused;
    const fua = context.writesDurable;
    for (const { sector, sectorCount, flags } of segments.list) {
      if (sectorCount === 0) continue;
      const mayUnmap = (flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP) !== 0;
      yield* this.#disk.writeZeroes(sector * SECTOR_SIZE, sectorCount * SECTOR_SIZE, { mayUnmap, fua });
    }
    return VIRTIO_BLK_S_OK;
  }

  /**
   * The status with which a discard or write zeroes request is refused, or undefined when it may go on. All segments are
   * looked at before the first is done.
   */
  #refuseSegments({ count, list }: Segments, negotiated: boolean, knownFlags: number): number | undefined {
    if (this.#disk.readOnly) return VIRTIO_BLK_S_IOERR;
    if (!negotiated || count > MAX_SEGMENTS) return VIRTIO_BLK_S_UNSUPP;
    if (list.length === 0) return VIRTIO_BLK_S_IOERR;
    if (list.some(({ flags }) => (flags & ~knownFlags) !== 0)) return VIRTIO_BLK_S_UNSUPP;
    const possible = list.every(
      ({ sector, sectorCount }) =>
        sectorCount <= MAX_SEGMENT_SECTORS && this.#inside(sector, sectorCount * SECTOR_SIZE),
    );
    return possible ? undefined : VIRTIO_BLK_S_IOERR;
  }

  *#flush(): Co<number> {
    yield* this.#disk.flush();
    return VIRTIO_BLK_S_OK;
  }

  *#getId(request: Request): Co<number> {
    request.data.slice(0, Math.min(request.data.length, DEVICE_ID_BYTES)).copyFrom(this.#serial);
    return VIRTIO_BLK_S_OK;
  }

  /** Whether a range is made of whole logical blocks and of whole sectors of the disk. */
  #inside(sector: number, length: number): boolean {
    const sectors = Math.floor(this.#disk.length / SECTOR_SIZE);
    if (sector > sectors || sector + length / SECTOR_SIZE > sectors) return false;
    return (sector * SECTOR_SIZE) % this.#logicalBlockSize === 0 && length % this.#logicalBlockSize === 0;
  }
}

/** What becomes of a request that nobody here will resume. */
function abandonedStatus({ resumable }: RequestContext, status: number): number | undefined {
  return resumable ? undefined : status;
}

function* unsupported(): Co<number> {
  return VIRTIO_BLK_S_UNSUPP;
}

/** What the host is told of a request that failed. Offsets and lengths are bytes. */
function describeError(request: Request, reason: ErrnoName): Parameters<RequestContext["failed"]>[0] {
  const operation = request.type === VIRTIO_BLK_T_IN ? "read" : "write";
  const [segment] = request.segments?.list ?? [];
  const { sector, length } = segment
    ? { sector: segment.sector, length: segment.sectorCount * SECTOR_SIZE }
    : { sector: request.sector, length: request.data.length };
  return { operation, reason, offset: sector * SECTOR_SIZE, length };
}
