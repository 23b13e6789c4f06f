export {
  type GuestDisk,
  type GuestOperation,
  GuestWorkload,
  REQUEST_BYTES_MAX,
  type Verification,
  verifySectors,
  type WorkloadObserver,
  type WorkloadOptions,
} from "./guest-workload.ts";
export { LatencyHistogram } from "./latency-histogram.ts";
export { BASE_WRITER, describeSector, fillStamp, hasStamp, isZeroSector, sectorWords } from "./sector-stamp.ts";
export { SectorStates } from "./sector-states.ts";
export { ownerOf, type Stripe, stripeAt } from "./zones.ts";
