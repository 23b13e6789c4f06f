/** The texts that the C library gives to errno values: jobs report their failure to monitors in these words. */
import type { ErrnoName } from "@spindle/base";

const ERRNO_TEXTS: Readonly<Record<ErrnoName, string>> = {
  EACCES: "Permission denied",
  EAGAIN: "Resource temporarily unavailable",
  EBUSY: "Device or resource busy",
  ECANCELED: "Operation canceled",
  EDEADLK: "Resource deadlock avoided",
  EEXIST: "File exists",
  EFBIG: "File too large",
  EINVAL: "Invalid argument",
  EIO: "Input/output error",
  EISDIR: "Is a directory",
  ENOENT: "No such file or directory",
  ENOMEDIUM: "No medium found",
  ENOSPC: "No space left on device",
  ENOTSUP: "Operation not supported",
  EPERM: "Operation not permitted",
  EROFS: "Read-only file system",
  ETIMEDOUT: "Connection timed out",
};

/** The text of `strerror` for an errno name, such as `Input/output error`. */
export function errnoText(code: ErrnoName): string {
  return ERRNO_TEXTS[code];
}
