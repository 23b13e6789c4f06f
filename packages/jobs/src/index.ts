export {
  type Compressor,
  type CompressorOptions,
  type CreateCompressor,
  localCompressor,
  type PieceCompressor,
  packCluster,
} from "./convert/compressor.ts";
export { type ConvertRequest, convert } from "./convert/convert.ts";
export type { Copier, CopierOptions, CopyOutcome, CreateCopier } from "./copier.ts";
export type { Job, JobBody, JobOptions, OnError } from "./job.ts";
export type {
  BlockJobEventData,
  BlockJobInfo,
  ErrorAction,
  IoStatus,
  JobEvent,
  JobInfo,
  JobType,
} from "./job-event.ts";
export { JobRegistry, type JobRegistryOptions } from "./job-registry.ts";
export type { JobStatus, JobVerb } from "./job-state.ts";
export { attributed, LocalCopier } from "./local-copier.ts";
export { copyDifferences, type RebaseRequest } from "./rebase.ts";
export { type StreamContext, startStream } from "./stream.ts";
export type { StreamOptions } from "./stream-options.ts";
export { zeroRuns } from "./zero-runs.ts";
