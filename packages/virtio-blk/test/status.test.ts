import type { ErrnoName } from "@spindle/base";
import { expect, test } from "vitest";
import {
  errorOfStatus,
  statusOfError,
  VIRTIO_BLK_S_IOERR,
  VIRTIO_BLK_S_OK,
  VIRTIO_BLK_S_UNSUPP,
} from "../src/status.ts";

/** A record, so that the compiler asks for an entry when an errno is added. */
const STATUS_OF: Record<ErrnoName, number> = {
  EACCES: VIRTIO_BLK_S_IOERR,
  EAGAIN: VIRTIO_BLK_S_IOERR,
  EBUSY: VIRTIO_BLK_S_IOERR,
  ECANCELED: VIRTIO_BLK_S_IOERR,
  EDEADLK: VIRTIO_BLK_S_IOERR,
  EEXIST: VIRTIO_BLK_S_IOERR,
  EFBIG: VIRTIO_BLK_S_IOERR,
  EINVAL: VIRTIO_BLK_S_IOERR,
  EIO: VIRTIO_BLK_S_IOERR,
  EISDIR: VIRTIO_BLK_S_IOERR,
  ENOENT: VIRTIO_BLK_S_IOERR,
  ENOMEDIUM: VIRTIO_BLK_S_IOERR,
  ENOSPC: VIRTIO_BLK_S_IOERR,
  ENOTSUP: VIRTIO_BLK_S_UNSUPP,
  EPERM: VIRTIO_BLK_S_IOERR,
  EROFS: VIRTIO_BLK_S_IOERR,
  ETIMEDOUT: VIRTIO_BLK_S_IOERR,
};

test.each(Object.entries(STATUS_OF))("%s becomes status %i", (code, status) => {
  expect(statusOfError(code as ErrnoName)).toBe(status);
});

test("a driver sees EIO, ENOTSUP or success, and EIO for a status that nobody knows", () => {
  expect(errorOfStatus(VIRTIO_BLK_S_OK, "read")).toBeUndefined();
  expect(errorOfStatus(VIRTIO_BLK_S_IOERR, "read")?.code).toBe("EIO");
  expect(errorOfStatus(VIRTIO_BLK_S_UNSUPP, "read")?.code).toBe("ENOTSUP");
  expect(errorOfStatus(255, "read")?.code).toBe("EIO");
});
