export { alignDown, alignUp, isAligned, isPowerOfTwo } from "./alignment.ts";
export { AssertionError, assert, unreachable } from "./assert.ts";
export { ByteView } from "./byte-view.ts";
export { CoMutex } from "./co-mutex.ts";
export {
  type Clock,
  type Co,
  type Condition,
  type Join,
  join,
  type Operation,
  perform,
  type Settle,
  type Suspension,
  sleep,
  until,
} from "./coroutine.ts";
export { errnoName, errnoText } from "./errno-text.ts";
export {
  BlockError,
  decodeError,
  type ErrnoName,
  type ErrorContext,
  type ErrorRecord,
  encodeError,
  isBlockError,
} from "./errors.ts";
export { type RandomSource, SeededRandom } from "./random.ts";
export { AsyncRunner, type EventLoop } from "./run-async.ts";
export { SyncRunner } from "./run-sync.ts";
export { Runner, type Task } from "./runner.ts";
export { TRANSFER_LEAD_BYTES, transferBytes } from "./transfer-bytes.ts";
export { formatSize, GiB, KiB, MiB, parseExactSize, parseSize, SECTOR_SIZE, TiB } from "./units.ts";
export { decodeUtf8, encodeUtf8 } from "./utf8.ts";
export type { Waiter } from "./waiter.ts";
