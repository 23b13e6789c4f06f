/** Requests of any length on drivers that take only multiples of a unit: read more, and write what was there around them. */
import { alignDown, alignUp, type Co } from "@spindle/base";
import type { DebugEvent } from "./debug-event.ts";
import type { BlockDriver, WriteFlags } from "./driver.ts";
import { IoVector } from "./io-vector.ts";

/** Hears of the steps of a read-modify-write. */
type Tell = (event: DebugEvent) => Co<void>;

export function* readAligned(driver: BlockDriver, offset: number, vector: IoVector): Co<void> {
  const unit = driver.requestAlignment;
  if (unit === 1 || (offset % unit === 0 && vector.length % unit === 0)) {
    yield* driver.read(offset, vector);
    return;
  }
  const start = alignDown(offset, unit);
  const bounce = new Uint8Array(alignUp(offset + vector.length, unit) - start);
  yield* driver.read(start, IoVector.of(bounce));
  vector.copyFrom(bounce.subarray(offset - start));
}

/** The caller holds the units exclusively. */
export function* writeAligned(
  driver: BlockDriver,
  offset: number,
  vector: IoVector,
  flags: WriteFlags,
  tell: Tell,
): Co<void> {
  const unit = driver.requestAlignment;
  const start = alignDown(offset, unit);
  const end = alignUp(offset + vector.length, unit);
  if (start === offset && end === offset + vector.length) return yield* driver.write(offset, vector, flags);
  const head = new Uint8Array(offset - start);
  const tail = new Uint8Array(end - offset - vector.length);
  if (head.length > 0) {
    yield* tell("pwritev_rmw_head");
    yield* readAligned(driver, start, IoVector.of(head));
    yield* tell("pwritev_rmw_after_head");
  }
  if (tail.length > 0) {
    yield* tell("pwritev_rmw_tail");
    yield* readAligned(driver, end - tail.length, IoVector.of(tail));
    yield* tell("pwritev_rmw_after_tail");
  }
  const padded = new IoVector([head, ...vector.buffers, tail].filter((part) => part.length > 0));
  yield* driver.write(start, padded, flags);
}

/** The same for zeros: whole units without writing them. */
export function* zeroAligned(
  driver: BlockDriver,
  offset: number,
  length: number,
  flags: WriteFlags,
  tell: Tell,
): Co<void> {
  const unit = driver.requestAlignment;
  const head = Math.min(alignUp(offset, unit) - offset, length);
  const tail = (length - head) % unit;
  const zeros = (count: number): IoVector => IoVector.of(new Uint8Array(count));
  if (head > 0) yield* writeAligned(driver, offset, zeros(head), flags, tell);
  const middle = length - head - tail;
  if (middle > 0) yield* driver.writeZeroes(offset + head, middle, flags);
  if (tail > 0) yield* writeAligned(driver, offset + length - tail, zeros(tail), flags, tell);
}
