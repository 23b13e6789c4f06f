/**
 * Opens a file or block device of the host as storage. What it is, is looked at before it is opened, because opening some
 * devices does something, and again afterwards, because the name may mean another file by then.
 */
import * as fs from "node:fs";
import { BlockError, type Co, isBlockError } from "@spindle/base";
import { hostOperation, hostSync } from "./host-operation.ts";
import { ImageLock } from "./image-lock.ts";
import { linuxCalls } from "./linux-calls.ts";

export interface OpenedFile {
  readonly fd: number;
  readonly isBlockDevice: boolean;
  /** Its file system keeps all files in memory: no request waits for a disk. */
  readonly isInMemory: boolean;
  /** Bytes. */
  readonly length: number;
  /** Tells this file from every other of the host. */
  readonly identity: string;
}

/**
 * Waits on the calling thread, as QEMU does: a pool of threads takes longer to start than a file to open.
 * @param direct past the page cache
 * @throws {BlockError} ENOENT, EACCES, EROFS and the like; EISDIR for a directory, EINVAL for what is no storage, and for a
 *   file that has no way past the page cache.
 */
export function openFile(filename: string, readOnly: boolean, direct = false): OpenedFile {
  const failed = { message: `Could not open '${filename}'`, operation: "open", path: filename };
  if (filename.includes("\0")) throw new BlockError("EINVAL", "a file name has no NUL", { operation: "open" });
  refuseUnfit(
    hostSync(failed, () => fs.statSync(filename, { bigint: true })),
    filename,
  );
  // Without O_NONBLOCK the open of a FIFO that took the file's place would wait for ever.
  const { O_RDONLY, O_RDWR, O_NONBLOCK, O_DIRECT } = fs.constants;
  const flags = (readOnly ? O_RDONLY : O_RDWR) + O_NONBLOCK + (direct ? O_DIRECT : 0);
  let fd: number;
  try {
    fd = hostSync(failed, () => fs.openSync(filename, flags));
  } catch (error) {
    if (!direct || !isBlockError(error, "EINVAL")) throw error;
    const message = `Could not open '${filename}': filesystem does not support O_DIRECT`;
    throw new BlockError("EINVAL", message, { operation: "open", path: filename }, error);
  }
  try {
    const file = describeFile(fd, filename);
    // Rings take O_NONBLOCK for the wish that nothing waits, and give up what would have to.
    hostSync(failed, () => linuxCalls()?.setStatusFlags(fd, direct ? O_DIRECT : 0));
    return file;
  } catch (error) {
    fs.closeSync(fd);
    throw error;
  }
}

/** What a descriptor that is already open refers to. */
export function describeFile(fd: number, filename: string): OpenedFile {
  const failed = { message: `Could not open '${filename}'`, operation: "open", path: filename };
  const stat = hostSync(failed, () => fs.fstatSync(fd, { bigint: true }));
  refuseUnfit(stat, filename);
  const isBlockDevice = stat.isBlockDevice();
  const length = isBlockDevice ? deviceLength(fd, stat.rdev, filename) : Number(stat.size);
  return { fd, isBlockDevice, isInMemory: isInMemory(fd), length, identity: fileIdentity(stat) };
}

/** What `statfs` calls file systems in memory on Linux: tmpfs, and ramfs. */
const MEMORY_FILE_SYSTEMS: readonly number[] = [0x0102_1994, 0x8584_58f6];

function isInMemory(fd: number): boolean {
  if (process.platform !== "linux") return false;
  try {
    return MEMORY_FILE_SYSTEMS.includes(fs.statfsSync(`/proc/self/fd/${fd}`).type);
  } catch {
    return false;
  }
}

/** What tells one file of the host from every other. */
export function fileIdentity({ dev, ino }: fs.BigIntStats): string {
  return `${dev}:${ino}`;
}

/**
 * Makes an empty file, or empties the one that is there, for an image that is about to be created in it.
 * @throws {BlockError} ENOENT, EACCES, EISDIR and the like; EINVAL for what is no regular file; EAGAIN for one that another
 *   program is using.
 */
export function* createFile(filename: string): Co<void> {
  const failed = { message: `Could not create '${filename}'`, operation: "create", path: filename };
  const { O_CREAT, O_RDWR, O_NONBLOCK } = fs.constants;
  const flags = O_CREAT + O_RDWR + O_NONBLOCK;
  const fd = hostSync(failed, () => fs.openSync(filename, flags, 0o644));
  try {
    const { isBlockDevice } = describeFile(fd, filename);
    const calls = linuxCalls();
    // Emptied only when nobody else uses what is there.
    if (calls !== null) new ImageLock(calls, fd, filename).add({ write: true, resize: true, exclusive: true });
    if (isBlockDevice) return;
    yield* hostOperation<void>(
      failed,
      () => fs.ftruncateSync(fd, 0),
      (done) => fs.ftruncate(fd, 0, done),
    );
  } finally {
    fs.closeSync(fd);
  }
}

function refuseUnfit(stat: fs.BigIntStats, filename: string): void {
  if (stat.isFile() || stat.isBlockDevice()) return;
  const context = { operation: "open", path: filename };
  if (stat.isDirectory()) throw new BlockError("EISDIR", `Could not open '${filename}': Is a directory`, context);
  const kind = stat.isFIFO() ? "FIFO" : stat.isSocket() ? "socket" : "character device";
  throw new BlockError("EINVAL", `Could not open '${filename}': a ${kind} is no storage`, context);
}

function deviceLength(fd: number, rdev: bigint, filename: string): number {
  const calls = linuxCalls();
  const failed = { message: `Could not tell the size of '${filename}'`, operation: "open", path: filename };
  if (calls !== null) return hostSync(failed, () => calls.seekEnd(fd));
  // The numbers of a device as the C library's macros major() and minor() take them out of dev_t.
  const major = ((rdev >> 8n) & 0xfffn) | ((rdev >> 32n) & ~0xfffn);
  const minor = (rdev & 0xffn) | ((rdev >> 12n) & ~0xffn);
  const sectors = hostSync(failed, () => fs.readFileSync(`/sys/dev/block/${major}:${minor}/size`, "latin1"));
  return Number.parseInt(sectors, 10) * 512;
}
