/**
 * A whole transfer between a descriptor of the process and the buffers of a request, as one operation: performed, started on
 * the event loop, or handed to a ring (ring-runner.ts). A transfer that the kernel cuts short is continued.
 */
import * as fs from "node:fs";
import type { BlockError, ErrorContext, Operation, Settle } from "@spindle/base";
import type { IoVector } from "@spindle/block";
import { hostError } from "./host-errors.ts";
import { linuxCalls } from "./linux-calls.ts";

/** One call transfers at most this much: the kernel's own limit is a page less than 2 GiB. */
const CALL_BYTES_MAX: number = 1024 * 1024 * 1024;

/** Copying so many bytes is shorter than a hop to another thread: what is in memory is read and written at once. */
const SHORT_BYTES_MAX: number = 128 * 1024;

/** How long a file that answers EAGAIN is left alone, and how often it is asked again. */
const BUSY_WAIT_MS = 1;
const BUSY_ATTEMPTS_MAX = 1000;

export type Direction = "read" | "write";

/** Bytes beyond the end of the file read as zeros. */
export class FileTransfer implements Operation {
  readonly kind = "operation";
  readonly direction: Direction;
  readonly fd: number;
  readonly copied: boolean;
  readonly #offset: number;
  readonly #vector: IoVector;
  #done = 0;
  #attempts = 0;

  /** @param copied what the transfer takes is copying, because the file is in memory, and no wait for a disk */
  constructor(direction: Direction, fd: number, offset: number, vector: IoVector, copied = false) {
    this.direction = direction;
    this.fd = fd;
    this.#offset = offset;
    this.#vector = vector;
    this.copied = copied;
  }

  get over(): boolean {
    return this.#done === this.#vector.length;
  }

  /** Where the next call goes on. */
  get position(): number {
    return this.#offset + this.#done;
  }

  /** What the next call transfers. */
  get remaining(): IoVector {
    const left = this.#vector.length - this.#done;
    return this.#vector.slice(this.#done, Math.min(left, CALL_BYTES_MAX));
  }

  /**
   * Takes down what one call has transferred.
   * @throws {BlockError} EIO when the file takes no bytes.
   */
  advance(count: number): void {
    if (count > 0) {
      this.#done += count;
      this.#attempts = 0;
      return;
    }
    if (this.direction === "write") throw this.#error(new Error("the file took no bytes"));
    this.#vector.slice(this.#done, this.#vector.length - this.#done).fill(0);
    this.#done = this.#vector.length;
  }

  /**
   * Takes down that one call has failed: returns when it should be made again.
   * @throws {BlockError} with the name of the errno, EIO for those that the block layer does not know.
   */
  fail(error: unknown): void {
    const { code } = error as { code?: unknown };
    if (code === "EINTR") return;
    this.#attempts += 1;
    if (code !== "EAGAIN" || this.#attempts >= BUSY_ATTEMPTS_MAX) throw this.#error(error);
  }

  perform(): void {
    while (!this.over) {
      let count: number;
      try {
        count = this.#callSync();
      } catch (error) {
        this.fail(error);
        if ((error as { code?: unknown }).code !== "EINTR") blockFor(BUSY_WAIT_MS);
        continue;
      }
      this.advance(count);
    }
  }

  /**
   * A hop through libuv's threads costs about 50 us, a read of 4 KiB that the page cache has costs 1 us. RWF_NOWAIT makes
   * the kernel refuse what it would have to wait for, so that the event loop is never held up.
   */
  start(settle: Settle): void {
    let failure: unknown;
    try {
      if (!this.over && !this.#tryAtOnce()) {
        this.#continue(settle);
        return;
      }
    } catch (error) {
      failure = error;
    }
    queueMicrotask(() => settle(failure));
  }

  #continue(settle: Settle): void {
    this.#callAsync((error, count) => {
      try {
        if (error === null) this.advance(count);
        else {
          this.fail(error);
          setTimeout(() => this.#continue(settle), BUSY_WAIT_MS);
          return;
        }
      } catch (failure) {
        settle(failure);
        return;
      }
      if (this.over) settle(undefined);
      else this.#continue(settle);
    });
  }

  /** Transfers what needs no waiting, if it is little. @returns whether the transfer is over. */
  #tryAtOnce(): boolean {
    if (this.#vector.length > SHORT_BYTES_MAX) return false;
    if (this.copied) this.perform();
    else if (this.direction === "read") this.#readCached();
    return this.over;
  }

  #readCached(): void {
    const count = linuxCalls()?.readCached(this.fd, this.#vector.buffers, this.#offset) ?? -1;
    if (count > 0) this.#done = count;
  }

  #callSync(): number {
    const { fd, position } = this;
    const { buffers } = this.remaining;
    const [only] = buffers;
    if (buffers.length === 1 && only !== undefined)
      return this.direction === "read"
        ? fs.readSync(fd, only, 0, only.length, position)
        : fs.writeSync(fd, only, 0, only.length, position);
    return this.direction === "read" ? fs.readvSync(fd, buffers, position) : fs.writevSync(fd, buffers, position);
  }

  #callAsync(done: (error: NodeJS.ErrnoException | null, count: number) => void): void {
    const { fd, position } = this;
    const { buffers } = this.remaining;
    const [only] = buffers;
    if (buffers.length === 1 && only !== undefined) {
      if (this.direction === "read") fs.read(fd, only, 0, only.length, position, done);
      else fs.write(fd, only, 0, only.length, position, done);
    } else if (this.direction === "read") fs.readv(fd, buffers, position, done);
    else fs.writev(fd, buffers, position, done);
  }

  #error(error: unknown): BlockError {
    const { direction } = this;
    const { length } = this.#vector;
    const context: ErrorContext = { operation: direction, offset: this.#offset, length };
    return hostError(error, `Could not ${direction} ${length} bytes at ${this.#offset}`, context);
  }
}

function blockFor(durationMs: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, durationMs);
}
