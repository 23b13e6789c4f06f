/**
 * Reads and writes at offsets of a descriptor, from any thread: what a file driver does with its own descriptor, and data
 * movers on other threads with the same one. Where the descriptor goes past the page cache (O_DIRECT), and the buffers of a
 * request do not stand as its device wants them, the transfer takes the way through a bounce buffer.
 *
 * Everything throws a BlockError with the name of the errno, EIO for those that the block layer does not know.
 */
import { type Co, isBlockError } from "@spindle/base";
import type { DescriptorIo, IoVector } from "@spindle/block";
import { readBounced, writeBounced } from "./bounced-transfer.ts";
import { type Direction, FileTransfer } from "./file-transfer.ts";
import { koffiLibrary } from "./koffi-library.ts";
import { sharingCalls } from "./sharing-calls.ts";

/** From so many bytes on, copying takes longer than handing it to a thread of the kernel's, and several copy side by side. */
const LARGE_BYTES: number = 256 * 1024;

/** Leaves it to the runner how it waits. */
export const descriptorIo: DescriptorIo = {
  read: (fd, offset, vector) => whole(new FileTransfer("read", fd, offset, vector), offset, vector),
  write: (fd, offset, vector) => whole(new FileTransfer("write", fd, offset, vector), offset, vector),
};

/** The same for files that are in memory: a little is copied at once, and much on threads of the kernel's if the runner has a ring. */
export const memoryDescriptorIo: DescriptorIo = {
  read: (fd, offset, vector) => whole(new FileTransfer("read", fd, offset, vector, true), offset, vector),
  write: (fd, offset, vector) => whole(new FileTransfer("write", fd, offset, vector, true), offset, vector),
};

/** The same for threads that may block: a request is over when its coroutine first returns, and no runner is troubled. */
export const blockingDescriptorIo: DescriptorIo = {
  read: (fd, offset, vector) => atOnce("read", fd, offset, vector),
  write: (fd, offset, vector) => atOnce("write", fd, offset, vector),
};

/**
 * Descriptors of file systems that cannot say what their cache has: those in memory, which never wait for a disk. A number
 * that means another file by now costs that file time, and nothing else.
 */
const neverWaiting: Set<number> = new Set();

/**
 * For threads whose runner has a ring, files in the page cache and mapped memory: what the cache has is copied at once, which
 * is shorter than any way around; what the disk has to be asked for is left to the runner, so that many questions are asked
 * at once.
 */
export const cachedDescriptorIo: DescriptorIo = {
  *read(fd, offset, vector) {
    if (vector.length >= LARGE_BYTES) return yield* memoryDescriptorIo.read(fd, offset, vector);
    if (neverWaiting.has(fd)) return yield* blockingDescriptorIo.read(fd, offset, vector);
    const count = sharingCalls().readCached(fd, vector.buffers, offset);
    if (count === vector.length) return;
    if (count === undefined) neverWaiting.add(fd);
    yield* descriptorIo.read(fd, offset, vector);
  },
  // The kernel writes to a file with one thread at a time: to be beside others gains a write nothing.
  write: (fd, offset, vector) =>
    (vector.length >= LARGE_BYTES ? descriptorIo : blockingDescriptorIo).write(fd, offset, vector),
};

function* whole(transfer: FileTransfer, offset: number, vector: IoVector): Co<void> {
  try {
    yield transfer;
  } catch (error) {
    yield* bounced(error, transfer.direction, transfer.fd, offset, vector);
  }
}

function* atOnce(direction: Direction, fd: number, offset: number, vector: IoVector): Co<void> {
  try {
    new FileTransfer(direction, fd, offset, vector).perform();
  } catch (error) {
    yield* bounced(error, direction, fd, offset, vector);
  }
}

/** EINVAL is what a descriptor with O_DIRECT says to buffers, offsets and lengths that it cannot do. */
function bounced(error: unknown, direction: Direction, fd: number, offset: number, vector: IoVector): Co<void> {
  if (!isBlockError(error, "EINVAL") || koffiLibrary() === null) throw error;
  return direction === "read" ? readBounced(fd, offset, vector) : writeBounced(fd, offset, vector);
}
