/**
 * A file that is read and written past the page cache (O_DIRECT), for requests of any size and any buffers: what is not made
 * of whole blocks is completed with what the file holds around it.
 */
import * as fs from "node:fs";
import { alignDown, alignUp, BlockError, type Co, SECTOR_SIZE } from "@spindle/base";
import { IoVector } from "@spindle/block";
import { BLOCK_BYTES_MAX, readBounced, writeBounced } from "./bounced-transfer.ts";
import { linuxCalls } from "./linux-calls.ts";

export class DirectIo {
  /** Bytes of the blocks that the file is read and written in: a power of two, 512 to 4096. */
  readonly blockBytes: number;
  readonly #fd: number;
  /** Writes under way; -1 while one of them has the file for itself. */
  #writing = 0;
  /** Writes that wait to have the file for themselves; others wait for those. */
  #waiting = 0;

  /**
   * @param fd opened with O_DIRECT
   * @param blockBytes as another instance has found it out
   * @throws {BlockError} ENOTSUP where the host cannot, or blocks are larger than 4096 bytes.
   */
  constructor(fd: number, blockBytes: number = findBlockBytes(fd)) {
    if (blockBytes > BLOCK_BYTES_MAX)
      throw new BlockError("ENOTSUP", `cache.direct is not supported for blocks of ${blockBytes} bytes`);
    this.#fd = fd;
    this.blockBytes = blockBytes;
  }

  /**
   * Whether whoever has the descriptor may read and write sectors of a disk beside this. Where blocks are larger, sectors of
   * one block have to be written one after the other, which is seen to here.
   */
  get canBeShared(): boolean {
    return this.blockBytes <= SECTOR_SIZE;
  }

  read(offset: number, vector: IoVector): Co<void> {
    return readBounced(this.#fd, offset, vector);
  }

  *write(offset: number, vector: IoVector): Co<void> {
    const { blockBytes } = this;
    const start = alignDown(offset, blockBytes);
    const end = alignUp(offset + vector.length, blockBytes);
    const whole = start === offset && end === offset + vector.length;
    if (!whole) this.#waiting += 1;
    const ready = (): boolean => (whole ? this.#writing >= 0 && this.#waiting === 0 : this.#writing === 0);
    while (!ready()) yield { kind: "condition", ready };
    if (!whole) this.#waiting -= 1;
    this.#writing += whole ? 1 : -1;
    try {
      if (whole) yield* writeBounced(this.#fd, offset, vector);
      else yield* this.#writePart(offset, vector, start, end);
    } finally {
      this.#writing -= whole ? 1 : -1;
    }
  }

  /** Writes the blocks from `start` to `end`, of which the request is a part. No other write is under way. */
  *#writePart(offset: number, vector: IoVector, start: number, end: number): Co<void> {
    const { blockBytes } = this;
    const blocks = new Uint8Array(end - start);
    yield* readBounced(this.#fd, start, IoVector.of(blocks.subarray(0, blockBytes)));
    if (blocks.length > blockBytes)
      yield* readBounced(this.#fd, end - blockBytes, IoVector.of(blocks.subarray(-blockBytes)));
    vector.copyTo(blocks.subarray(offset - start));
    const before = fs.fstatSync(this.#fd);
    yield* writeBounced(this.#fd, start, IoVector.of(blocks));
    // Zeros behind the end would make a disk longer. Less than a sector counts for nothing, and where others have the
    // descriptor, what one of them has just written behind the end must not be cut off.
    const length = Math.max(before.size, offset + vector.length);
    if (!this.canBeShared && before.isFile() && length < end) fs.ftruncateSync(this.#fd, length);
  }
}

function findBlockBytes(fd: number): number {
  const calls = linuxCalls();
  if (calls === null) throw new BlockError("ENOTSUP", "cache.direct needs Linux and the package 'koffi'");
  // Without a word from the kernel, what all devices can do.
  return Math.max(SECTOR_SIZE, calls.directAlignment(fd) ?? BLOCK_BYTES_MAX);
}
