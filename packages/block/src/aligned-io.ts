/** Requests of any length on drivers that take only multiples of a unit: read more, and write what was there around them. */
import { alignDown, alignUp, type Co } from "@spindle/base";
import type { DebugEvent } from "./debug-event.ts";
import type { BlockDriver, WriteFlags } from "./driver.ts";
import { IoVector } from "./io-vector.ts";
import type { BlockNode } from "./node.ts";

/** A node, as far as these look at it. */
type AlignedNode = Pick<BlockNode, "driver" | "children" | "tell">;

/** The node below may be why requests have a unit: it is told as if it filled them up itself. */
function tell(node: AlignedNode, event: DebugEvent): Co<void> {
  return (node.driver.debugEvent === undefined ? (node.children.file ?? node) : node).tell(event);
}

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
export function* writeAligned(node: AlignedNode, offset: number, vector: IoVector, flags: WriteFlags): Co<void> {
  const { driver } = node;
  const unit = driver.requestAlignment;
  const start = alignDown(offset, unit);
  const end = alignUp(offset + vector.length, unit);
  if (start === offset && end === offset + vector.length) return yield* driver.write(offset, vector, flags);
  const head = new Uint8Array(offset - start);
  const tail = new Uint8Array(end - offset - vector.length);
  if (head.length > 0) {
    yield* tell(node, "pwritev_rmw_head");
    yield* readAligned(driver, start, IoVector.of(head));
    yield* tell(node, "pwritev_rmw_after_head");
  }
  if (tail.length > 0) {
    yield* tell(node, "pwritev_rmw_tail");
    yield* readAligned(driver, end - tail.length, IoVector.of(tail));
    yield* tell(node, "pwritev_rmw_after_tail");
  }
  const padded = new IoVector([head, ...vector.buffers, tail].filter((part) => part.length > 0));
  yield* driver.write(start, padded, flags);
}

/** The same for zeros: whole units without writing them. */
export function* zeroAligned(node: AlignedNode, offset: number, length: number, flags: WriteFlags): Co<void> {
  const { driver } = node;
  const unit = driver.requestAlignment;
  const head = Math.min(alignUp(offset, unit) - offset, length);
  const tail = (length - head) % unit;
  const zeros = (count: number): IoVector => IoVector.of(new Uint8Array(count));
  if (head > 0) yield* writeAligned(node, offset, zeros(head), flags);
  const middle = length - head - tail;
  if (middle > 0) yield* driver.writeZeroes(offset + head, middle, flags);
  if (tail > 0) yield* writeAligned(node, offset + length - tail, zeros(tail), flags);
}
