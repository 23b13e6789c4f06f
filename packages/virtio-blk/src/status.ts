/** The status byte of a request (virtio 1.2 §5.2.6): the one place where errors become statuses and the other way. */
import { BlockError, type ErrnoName } from "@spindle/base";

export const VIRTIO_BLK_S_OK = 0;
export const VIRTIO_BLK_S_IOERR = 1;
export const VIRTIO_BLK_S_UNSUPP = 2;

/** The status that tells a driver of an error of the disk. */
export function statusOfError(code: ErrnoName): number {
  return code === "ENOTSUP" ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;
}

/** The driver's side: what a status means, or undefined when the request succeeded. */
export function errorOfStatus(status: number, operation: string): BlockError | undefined {
  if (status === VIRTIO_BLK_S_OK) return undefined;
  if (status === VIRTIO_BLK_S_UNSUPP) return new BlockError("ENOTSUP", "the device does not support it", { operation });
  return new BlockError("EIO", `the device answered with status ${status}`, { operation });
}
