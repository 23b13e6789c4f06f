export { Bitmap } from "./bitmap.ts";
export { LockKind } from "./lock-kind.ts";
export {
  type InFlightRequest,
  RangeLock,
  type RangeLockHandle,
  type RangeLockStatistics,
} from "./range-lock.ts";
export { Ring } from "./ring.ts";
export { MAX_THREADS, Thread, ThreadTable, type ThreadTableHandle } from "./thread-table.ts";
