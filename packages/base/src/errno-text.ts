/** The texts that the C library gives to errno values: what users of QEMU read where a request or a job has failed. */
import type { ErrnoName } from "./errors.ts";

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

/** The errno values of Linux. */
const ERRNO_NUMBERS: Readonly<Record<number, ErrnoName>> = {
  1: "EPERM",
  2: "ENOENT",
  5: "EIO",
  11: "EAGAIN",
  13: "EACCES",
  16: "EBUSY",
  17: "EEXIST",
  21: "EISDIR",
  22: "EINVAL",
  27: "EFBIG",
  28: "ENOSPC",
  30: "EROFS",
  35: "EDEADLK",
  95: "ENOTSUP",
  110: "ETIMEDOUT",
  123: "ENOMEDIUM",
  125: "ECANCELED",
};

/** The name of an errno value of Linux; undefined for those that the block layer does not tell apart. */
export function errnoName(number: number): ErrnoName | undefined {
  return ERRNO_NUMBERS[number];
}
