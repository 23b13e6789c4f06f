/**
 * The back half of the device: executes requests on a disk (virtio 1.2 §5.2.6). It knows the rules of the request types
 * and nothing of rings or bytes.
 */
import { type Co, isBlockError, SECTOR_SIZE } from "@spindle/base";
import { MAX_SEGMENT_SECTORS } from "./config-space.ts";
import type { Disk } from "./disk.ts";
import { VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_WRITE_ZEROES } from "./features.ts";
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
   * Executes a request. Errors of the disk become its status; only what is no BlockError is thrown.
   * @param features bits 0 to 31 of what the driver negotiated
   * @returns the status byte.
   */
  *execute(request: Request, features: number): Co<number> {
    try {
      switch (request.type) {
        case VIRTIO_BLK_T_IN:
          return yield* this.#read(request);
        case VIRTIO_BLK_T_OUT:
          return yield* this.#write(request, features);
        case VIRTIO_BLK_T_FLUSH:
        case VIRTIO_BLK_T_FLUSH_OUT:
          yield* this.#disk.flush();
          return VIRTIO_BLK_S_OK;
        case VIRTIO_BLK_T_GET_ID:
          return this.#getId(request);
        case VIRTIO_BLK_T_DISCARD:
          return yield* this.#discard(request.segments as Segments, features);
        case VIRTIO_BLK_T_WRITE_ZEROES:
          return yield* this.#writeZeroes(request.segments as Segments, features);
        default:
          return VIRTIO_BLK_S_UNSUPP;
      }
    } catch (error) {
      if (isBlockError(error)) return statusOfError(error.code);
      throw error;
    }
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

  *#write(request: Request, features: number): Co<number> {
    if (this.#disk.readOnly || !this.#inside(request.sector, request.data.length)) return VIRTIO_BLK_S_IOERR;
    if (request.data.length === 0) return VIRTIO_BLK_S_OK;
    // A driver that cannot send a flush takes every completed write for durable.
    const flags = (features & VIRTIO_BLK_F_FLUSH) === 0 ? WRITETHROUGH : WRITEBACK;
    yield* this.#disk.write(request.sector * SECTOR_SIZE, request.data, flags);
    return VIRTIO_BLK_S_OK;
  }

  *#discard(segments: Segments, features: number): Co<number> {
    const refused = this.#refuseSegments(segments, (features & VIRTIO_BLK_F_DISCARD) !== 0, 0);
    if (refused !== undefined) return refused;
    if (segments.sectorCount > 0)
      yield* this.#disk.discard(segments.sector * SECTOR_SIZE, segments.sectorCount * SECTOR_SIZE);
    return VIRTIO_BLK_S_OK;
  }

  *#writeZeroes(segments: Segments, features: number): Co<number> {
    const negotiated = (features & VIRTIO_BLK_F_WRITE_ZEROES) !== 0;
    const refused = this.#refuseSegments(segments, negotiated, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
    if (refused !== undefined) return refused;
    if (segments.sectorCount > 0) {
      yield* this.#disk.writeZeroes(segments.sector * SECTOR_SIZE, segments.sectorCount * SECTOR_SIZE, {
        mayUnmap: (segments.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP) !== 0,
        fua: (features & VIRTIO_BLK_F_FLUSH) === 0,
      });
    }
    return VIRTIO_BLK_S_OK;
  }

  /** The status with which a discard or write zeroes request is refused, or undefined when it may go on. */
  #refuseSegments(segments: Segments, negotiated: boolean, knownFlags: number): number | undefined {
    if (this.#disk.readOnly) return VIRTIO_BLK_S_IOERR;
    if (!negotiated || segments.count >= 2) return VIRTIO_BLK_S_UNSUPP;
    if (segments.count !== 1) return VIRTIO_BLK_S_IOERR;
    if ((segments.flags & ~knownFlags) !== 0) return VIRTIO_BLK_S_UNSUPP;
    if (segments.sectorCount > MAX_SEGMENT_SECTORS) return VIRTIO_BLK_S_IOERR;
    return this.#inside(segments.sector, segments.sectorCount * SECTOR_SIZE) ? undefined : VIRTIO_BLK_S_IOERR;
  }

  #getId(request: Request): number {
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
