/**
 * Whole transfers between a descriptor of the process and the buffers of a request: what a file driver does with its own
 * descriptor, and data movers on other threads with the same one. A transfer that the kernel cuts short is continued.
 */
import * as fs from "node:fs";
import { BlockError, type Co, type ErrorContext, type Operation, perform, type Settle } from "@spindle/base";
import type { DescriptorIo, IoVector } from "@spindle/block";
import { hostError } from "./host-errors.ts";
import { linuxCalls } from "./linux-calls.ts";

/** One call transfers at most this much: the kernel's own limit is a page less than 2 GiB. */
const CALL_BYTES_MAX: number = 1024 * 1024 * 1024;

/** Reads of at most this many bytes are first tried from the page cache: copying them is shorter than a thread hop. */
const CACHED_READ_BYTES_MAX: number = 128 * 1024;

/** How long a file that answers EAGAIN is left alone, and how often it is asked again. */
const BUSY_WAIT_MS = 1;
const BUSY_ATTEMPTS_MAX = 1000;

type Direction = "read" | "write";

/** A transfer under way. */
interface Transfer {
  readonly direction: Direction;
  readonly fd: number;
  readonly offset: number;
  readonly vector: IoVector;
  done: number;
  attempts: number;
}

/**
 * Reads and writes at offsets of a descriptor, from any thread. Bytes beyond the end of the file read as zeros.
 * @throws {BlockError} with the name of the errno, EIO for those that the block layer does not know.
 */
export const descriptorIo: DescriptorIo = {
  read: (fd, offset, vector) => transfer("read", fd, offset, vector),
  write: (fd, offset, vector) => transfer("write", fd, offset, vector),
};

/**
 * The same for threads that may block: a request is over when its coroutine first returns, and no runner is troubled.
 */
export const blockingDescriptorIo: DescriptorIo = {
  *read(fd, offset, vector) {
    performTransfer({ direction: "read", fd, offset, vector, done: 0, attempts: 0 });
  },
  *write(fd, offset, vector) {
    performTransfer({ direction: "write", fd, offset, vector, done: 0, attempts: 0 });
  },
};

function transfer(direction: Direction, fd: number, offset: number, vector: IoVector): Co<void> {
  const state: Transfer = { direction, fd, offset, vector, done: 0, attempts: 0 };
  const operation: Operation & { perform(): void } = {
    kind: "operation",
    perform: () => performTransfer(state),
    start: (settle) => startTransfer(state, settle),
  };
  return perform<void>(operation);
}

function performTransfer(state: Transfer): void {
  while (state.done < state.vector.length) {
    const buffers = remaining(state);
    const at = state.offset + state.done;
    try {
      note(state, state.direction === "read" ? readSync(state.fd, buffers, at) : writeSync(state.fd, buffers, at));
    } catch (error) {
      if (!isBusy(error, state)) throw transferError(error, state);
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, BUSY_WAIT_MS);
    }
  }
}

function startTransfer(state: Transfer, settle: Settle): void {
  if (state.vector.length === 0 || readFromCache(state)) {
    queueMicrotask(() => settle(undefined));
    return;
  }
  continueTransfer(state, settle);
}

function continueTransfer(state: Transfer, settle: Settle): void {
  const done = (error: NodeJS.ErrnoException | null, count: number): void => {
    try {
      if (error === null) note(state, count);
      else if (!isBusy(error, state)) throw error;
      else {
        setTimeout(continueTransfer, BUSY_WAIT_MS, state, settle);
        return;
      }
    } catch (failure) {
      settle(transferError(failure, state));
      return;
    }
    if (state.done < state.vector.length) continueTransfer(state, settle);
    else settle(undefined);
  };
  const buffers = remaining(state);
  const at = state.offset + state.done;
  const [only] = buffers;
  if (buffers.length === 1 && only !== undefined) {
    if (state.direction === "read") fs.read(state.fd, only, 0, only.length, at, done);
    else fs.write(state.fd, only, 0, only.length, at, done);
  } else if (state.direction === "read") fs.readv(state.fd, buffers, at, done);
  else fs.writev(state.fd, buffers, at, done);
}

/**
 * A hop through libuv's threads costs about 50 us, a read of 4 KiB that the page cache has costs 1 us. RWF_NOWAIT makes
 * the kernel refuse what it would have to wait for, so that the event loop is never held up.
 * @returns whether the transfer is over.
 */
function readFromCache(state: Transfer): boolean {
  if (state.direction !== "read" || state.vector.length > CACHED_READ_BYTES_MAX) return false;
  const count = linuxCalls()?.readCached(state.fd, state.vector.buffers, state.offset) ?? -1;
  if (count > 0) state.done = count;
  return state.done === state.vector.length;
}

function remaining({ vector, done }: Transfer): readonly Uint8Array[] {
  const left = vector.length - done;
  if (done === 0 && left <= CALL_BYTES_MAX) return vector.buffers;
  return vector.slice(done, Math.min(left, CALL_BYTES_MAX)).buffers;
}

/** Takes down what one call has transferred. */
function note(state: Transfer, count: number): void {
  if (count > 0) {
    state.done += count;
    state.attempts = 0;
    return;
  }
  if (state.direction === "write") throw new BlockError("EIO", "the file took no bytes");
  const { vector, done } = state;
  vector.slice(done, vector.length - done).fill(0);
  state.done = vector.length;
}

function readSync(fd: number, buffers: readonly Uint8Array[], at: number): number {
  const [only] = buffers;
  if (buffers.length === 1 && only !== undefined) return fs.readSync(fd, only, 0, only.length, at);
  return fs.readvSync(fd, buffers, at);
}

function writeSync(fd: number, buffers: readonly Uint8Array[], at: number): number {
  const [only] = buffers;
  if (buffers.length === 1 && only !== undefined) return fs.writeSync(fd, only, 0, only.length, at);
  return fs.writevSync(fd, buffers, at);
}

function isBusy(error: unknown, state: Transfer): boolean {
  const { code } = error as { code?: unknown };
  if (code === "EINTR") return true;
  state.attempts += 1;
  return code === "EAGAIN" && state.attempts < BUSY_ATTEMPTS_MAX;
}

function transferError(error: unknown, { direction, offset, vector }: Transfer): BlockError {
  const context: ErrorContext = { operation: direction, offset, length: vector.length };
  return hostError(error, `Could not ${direction} ${vector.length} bytes at ${offset}`, context);
}
