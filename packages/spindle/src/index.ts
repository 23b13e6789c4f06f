export { type AmendImageOptions, amendImage, amendOptions } from "./amend-image.ts";
export { type CheckImageOptions, checkImage, type ImageCheck, NoCheckError } from "./check-image.ts";
export { combinePath } from "./combine-path.ts";
export { type CommitImageOptions, commitImage } from "./commit-image.ts";
export { type ConvertedImage, type ConvertImageOptions, convertImage } from "./convert-image.ts";
export { type CreatedImage, type CreateImageOptions, creatableFormat, createImage } from "./create-image.ts";
export {
  Disk,
  type MapOptions,
  type RequestOptions,
  type ResizeOptions,
  type WriteOptions,
  type WriteZeroesOptions,
} from "./disk.ts";
export type { MapExtent } from "./disk-map.ts";
export { driverRegistry } from "./driver-registry.ts";
export { type ImageInfo, type ImageInfoOptions, imageChainInfo, imageInfo, imageLength } from "./image-info.ts";
export { type MeasureImageOptions, measureImage } from "./measure-image.ts";
export { type OpenDiskOptions, openDisk } from "./open-disk.ts";
export { type ImageName, openChain } from "./open-image.ts";
export { type RebaseImageOptions, rebaseImage } from "./rebase-image.ts";
export { type ImageAccess, type Secrets, Session, type SessionOptions } from "./session.ts";
export type { SnapshotSelector } from "./show-snapshot.ts";
export { StreamJob, type StreamJobOptions, type StreamResult } from "./stream-job.ts";
export type { StreamProgress } from "./stream-progress.ts";
