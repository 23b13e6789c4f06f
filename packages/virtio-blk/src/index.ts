export { MAX_SEGMENT_SECTORS } from "./config-space.ts";
export { createVirtioBlk, type VirtioBlkHandle, type VirtioBlkOptions } from "./create-device.ts";
export type { DescriptorChain } from "./descriptor-chain.ts";
export { DeviceState } from "./device-state.ts";
export type { Disk } from "./disk.ts";
export {
  type GuestHandle,
  type GuestPlanOptions,
  type GuestQueuePlan,
  planGuest,
  readCapacity,
  resetDevice,
  startGuest,
} from "./driver/guest-driver.ts";
export { GuestQueue, type GuestRange, type GuestRequest } from "./driver/guest-queue.ts";
export { type PciFunction, PciRegisters } from "./driver/pci-registers.ts";
export { type FeatureBits, ringFeatures } from "./features.ts";
export { GuestMemory, type GuestMemoryHandle, type GuestRegion } from "./guest-memory.ts";
export type { ErrorAction, ErrorPolicy, IoErrorReport } from "./io-error.ts";
export { MmioTransport } from "./mmio.ts";
export { LegacyMmioTransport } from "./mmio-legacy.ts";
export { openVirtqueue } from "./open-virtqueue.ts";
export { type PciInterrupts, type PciMsix, PciTransport, type PciTransportOptions } from "./pci.ts";
export type { QueueFault } from "./queue-fault.ts";
export type { QueueLayout } from "./queue-layout.ts";
export { QueueServer, type QueueServerOptions, serveQueues } from "./queue-worker.ts";
export { type Registers, VIRTIO_MMIO_QUEUE_NOTIFY } from "./registers.ts";
export {
  VIRTIO_BLK_T_DISCARD,
  VIRTIO_BLK_T_FLUSH,
  VIRTIO_BLK_T_GET_ID,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
  VIRTIO_BLK_T_WRITE_ZEROES,
} from "./request.ts";
export type { DriverNotices } from "./served-queue.ts";
export { SpinningWaiter } from "./spinning-waiter.ts";
export { SplitQueue } from "./split-queue.ts";
export { VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP } from "./status.ts";
export type { QueuePosition, Virtqueue } from "./virtqueue.ts";
