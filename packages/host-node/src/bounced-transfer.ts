/**
 * Transfers through memory that is aligned as devices want it, for descriptors that go past the page cache: reads of whole
 * blocks around what is wanted, writes of whole blocks. The buffers belong to one thread, and are kept for the next request.
 */
import { alignDown, alignUp, type Co } from "@spindle/base";
import { IoVector } from "@spindle/block";
import { FileTransfer } from "./file-transfer.ts";
import { sharingCalls } from "./sharing-calls.ts";

/** What every device can do: alignment of memory, offsets and lengths. */
export const BLOCK_BYTES_MAX = 4096;

/** Longer transfers are made in pieces. */
const BUFFER_BYTES: number = 1024 * 1024;
/** Buffers that are kept while nobody uses them. */
const KEPT_MAX = 16;

interface BounceBuffer {
  readonly address: number;
  readonly bytes: Uint8Array;
}

const kept: BounceBuffer[] = [];

/** Reads any range. */
export function* readBounced(fd: number, offset: number, vector: IoVector): Co<void> {
  for (const { at, length } of pieces(offset, vector.length)) {
    const start = alignDown(at, BLOCK_BYTES_MAX);
    const end = alignUp(at + length, BLOCK_BYTES_MAX);
    yield* withBuffer(end - start, function* (bytes) {
      yield new FileTransfer("read", fd, start, IoVector.of(bytes));
      vector.slice(at - offset, length).copyFrom(bytes.subarray(at - start));
    });
  }
}

/** Writes a range that is made of whole blocks of the descriptor: EINVAL where it is not. */
export function* writeBounced(fd: number, offset: number, vector: IoVector): Co<void> {
  for (const { at, length } of pieces(offset, vector.length))
    yield* withBuffer(length, function* (bytes) {
      vector.slice(at - offset, length).copyTo(bytes);
      yield new FileTransfer("write", fd, at, IoVector.of(bytes));
    });
}

/** Pieces that end at multiples of the largest block, so that each but the first and the last is made of those. */
function* pieces(offset: number, length: number): Generator<{ at: number; length: number }> {
  const end = offset + length;
  for (let at = offset; at < end; ) {
    const next = Math.min(alignDown(at, BLOCK_BYTES_MAX) + BUFFER_BYTES, end);
    yield { at, length: next - at };
    at = next;
  }
}

/** Lends a buffer of `length` bytes, at most 1 MiB. */
function* withBuffer(length: number, use: (bytes: Uint8Array) => Co<void>): Co<void> {
  const buffer = kept.pop() ?? allocate();
  try {
    yield* use(buffer.bytes.subarray(0, length));
  } finally {
    if (kept.length < KEPT_MAX) kept.push(buffer);
    else sharingCalls().unmap(buffer.address, BUFFER_BYTES);
  }
}

function allocate(): BounceBuffer {
  const address = sharingCalls().allocate(BUFFER_BYTES);
  return { address, bytes: new Uint8Array(sharingCalls().view(address, BUFFER_BYTES)) };
}
