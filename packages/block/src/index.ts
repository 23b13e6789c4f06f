export { type AioRequest, Backend, type BlockRequest, type Disk } from "./backend.ts";
export { backingOf, type ChainExtent, chainOf, chainStatus, skipFilters } from "./chain.ts";
export { changeBitmaps } from "./change-bitmaps.ts";
export type { CheckRequest, CheckResult, Repair } from "./check.ts";
export type { Allocation, ClusterMap, Mapping, MappingKind } from "./cluster-map.ts";
export type { BreakpointListener, Breakpoints, DebugEvent } from "./debug-event.ts";
export { DirtyBitmap, type StoredBits } from "./dirty-bitmap.ts";
export { type BitmapReference, type BitmapStorage, DirtyBitmaps, type NewBitmap } from "./dirty-bitmaps.ts";
export { type DescriptorIo, DiskPort, type DiskPortHandle } from "./disk-port.ts";
export type { BackingFile, BlockDriver, ImageInformation, Preallocation, WriteFlags } from "./driver.ts";
export type {
  BlockCipher,
  Codecs,
  Cryptography,
  Environment,
  HashName,
  KeyDerivation,
} from "./environment.ts";
export { type Extent, unallocatedExtent, zeroExtent } from "./extent.ts";
export { blkdebugFilter } from "./filters/blkdebug.ts";
export { copyOnReadFilter } from "./filters/copy-on-read.ts";
export { delayFilter } from "./filters/delay.ts";
export { faultFilter } from "./filters/fault.ts";
export { FilterDriver } from "./filters/filter-driver.ts";
export { throttleFilter } from "./filters/throttle.ts";
export { type BackingPolicy, Graph, type GraphOptions } from "./graph.ts";
export type { InternalSnapshot, InternalSnapshots } from "./internal-snapshots.ts";
export { IoVector } from "./io-vector.ts";
export { BlockNode, type Children, type NodeOptions } from "./node.ts";
export type { OpenImageOptions } from "./node-opener.ts";
export { COMMON_OPTIONS, fileOption, type OptionRecord } from "./node-options.ts";
export { nullDriver } from "./null-driver.ts";
export { PortServer } from "./port-server.ts";
export {
  type CorruptionEvent,
  type CreateOptions,
  type DriverDefinition,
  DriverRegistry,
  type InFlightTickets,
  type MeasuredSize,
  type MeasureOptions,
  type OpenRequest,
  type OptionType,
} from "./registry.ts";
export { SecretStore } from "./secret-store.ts";
export { closeShared, describeShared, openShared, type SharedDescription } from "./shared-description.ts";
export type { StorageClaim } from "./storage-claim.ts";
export type { TrackedRange } from "./tracked-range.ts";
