/**
 * System calls on files that Node lacks: holes in files, and reads that never wait for the disk. Where they are not to be
 * had, every caller has a plain way.
 */
import { systemError } from "./host-errors.ts";
import { type Koffi, koffiLibrary, type NativeCall, STABLE_BYTES_MIN } from "./koffi-library.ts";

const SEEK_END = 2;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const ENXIO = 6;
const EINTR = 4;

export const FALLOC_FL_KEEP_SIZE = 1;
export const FALLOC_FL_PUNCH_HOLE = 2;
export const FALLOC_FL_ZERO_RANGE = 16;

const RWF_NOWAIT = 8;

/** Locks of open file descriptions, which threads share and `close` of another descriptor does not drop. */
const F_OFD_GETLK = 36;
const F_OFD_SETLK = 37;
const F_RDLCK = 0;
const F_WRLCK = 1;
const F_UNLCK = 2;
/** `struct flock`: short type, short whence, 64-bit start, 64-bit length, int pid. */
const FLOCK_START = 8;
const FLOCK_LENGTH = 16;

const F_SETFL = 4;

const AT_EMPTY_PATH = 0x1000;
const STATX_DIOALIGN = 0x2000;
/** `struct statx`: the mask of what is told, and the alignment of offsets and lengths. */
const STATX_BYTES = 256;
const STATX_OFFSET_ALIGNMENT = 156;

/** How the result of a call that runs on another thread arrives. */
export type CallDone<T> = (error: unknown, value?: T) => void;

/** One system call in its two forms. */
export interface HostCall<Parameters extends readonly unknown[], T> {
  /** Blocks this thread. */
  sync(...parameters: Parameters): T;
  /** Runs on a thread of the pool. */
  start(done: CallDone<T>, ...parameters: Parameters): void;
}

type SeekParameters = readonly [fd: number, offset: number];

export interface LinuxCalls {
  /** The first byte of data at or after `offset`; undefined when there is none before the end. */
  readonly seekData: HostCall<SeekParameters, number | undefined>;
  /** The first byte of a hole at or after `offset`; the end counts as one. Undefined beyond the end. */
  readonly seekHole: HostCall<SeekParameters, number | undefined>;
  readonly fallocate: HostCall<readonly [fd: number, mode: number, offset: number, length: number], undefined>;
  /** Bytes copied inside the kernel, 0 at the end of the source. The files may share the space afterwards. */
  readonly copyFileRange: HostCall<
    readonly [source: number, sourceOffset: number, target: number, targetOffset: number, length: number],
    number
  >;
  /** The offset of the file's end: the length, also of block devices. */
  seekEnd(fd: number): number;
  /** Sets the flags of an open file that can be changed, such as O_DIRECT, and clears all others of those. */
  setStatusFlags(fd: number, flags: number): void;
  /** What offsets and lengths are multiples of past the page cache; undefined when kernel or file system do not tell. */
  directAlignment(fd: number): number | undefined;
  /** Takes or gives up this open file's share of a lock on one byte. @throws ENOTSUP where the kernel has no such locks. */
  setSharedLock(fd: number, byte: number, locked: boolean): void;
  /** Whether another open file, of this process or another, has a lock on the byte. */
  isLockedByOthers(fd: number, byte: number): boolean;
  /** Reads what needs no waiting: bytes read, or -1 when the disk would have to be asked or the file cannot tell. */
  readCached(fd: number, buffers: readonly Uint8Array[], offset: number): number;
}

let loaded: LinuxCalls | null | undefined;

/** The calls, or null where they are not to be had. */
export function linuxCalls(): LinuxCalls | null {
  if (loaded === undefined) {
    const koffi = koffiLibrary();
    loaded = koffi === null ? null : bind(koffi);
  }
  return loaded;
}

function bind(koffi: Koffi): LinuxCalls {
  const library = koffi.load(null);
  const iovec = koffi.struct({ base: "void *", length: "size_t" });
  const preadv2 = library.func("preadv2", "int64_t", ["int", koffi.pointer(iovec), "int", "int64_t", "int"]);
  const lseek: NativeCall = library.func("int64_t lseek(int fd, int64_t offset, int whence)");
  const fallocate: NativeCall = library.func("int fallocate(int fd, int mode, int64_t offset, int64_t length)");
  const copyFileRange: NativeCall = library.func(
    "int64_t copy_file_range(int source, int64_t *at, int target, int64_t *to, size_t length, unsigned int flags)",
  );
  const fcntl: NativeCall = library.func("int fcntl(int fd, int command, void *lock)");
  const setFlags: NativeCall = library.func("int fcntl(int fd, int command, long flags)");
  const statx: NativeCall = library.func(
    "int statx(int fd, const char *path, int flags, unsigned int mask, void *status)",
  );
  const errno = (): number => koffi.errno();
  const flock = (type: number, byte: number): Buffer => {
    const record = Buffer.alloc(STABLE_BYTES_MIN);
    record.writeInt16LE(type, 0);
    record.writeBigInt64LE(BigInt(byte), FLOCK_START);
    record.writeBigInt64LE(1n, FLOCK_LENGTH);
    return record;
  };
  const fcntlLock = (fd: number, command: number, record: Buffer): void => {
    const result = fcntl(fd, command, record);
    checked("fcntl", result, result < 0 ? errno() : 0);
  };
  return {
    seekData: new ErrnoCall(lseek, errno, (fd, offset) => [fd, offset, SEEK_DATA], seekResult),
    seekHole: new ErrnoCall(lseek, errno, (fd, offset) => [fd, offset, SEEK_HOLE], seekResult),
    fallocate: new ErrnoCall(
      fallocate,
      errno,
      (fd, mode, offset, length) => [fd, mode, offset, length],
      (result, code) => void checked("fallocate", result, code),
    ),
    copyFileRange: new ErrnoCall(
      copyFileRange,
      errno,
      (source, at, target, to, length) => [source, [at], target, [to], length, 0],
      (result, code) => checked("copy_file_range", result, code),
    ),
    seekEnd(fd) {
      const end = lseek(fd, 0, SEEK_END);
      return checked("lseek", end, end < 0 ? errno() : 0);
    },
    setStatusFlags(fd, flags) {
      const result = setFlags(fd, F_SETFL, flags);
      checked("fcntl", result, result < 0 ? errno() : 0);
    },
    directAlignment(fd) {
      const status = Buffer.alloc(STATX_BYTES);
      if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, status) < 0) return undefined;
      if ((status.readUInt32LE(0) & STATX_DIOALIGN) === 0) return undefined;
      return status.readUInt32LE(STATX_OFFSET_ALIGNMENT) || undefined;
    },
    setSharedLock(fd, byte, locked) {
      fcntlLock(fd, F_OFD_SETLK, flock(locked ? F_RDLCK : F_UNLCK, byte));
    },
    isLockedByOthers(fd, byte) {
      const record = flock(F_WRLCK, byte);
      fcntlLock(fd, F_OFD_GETLK, record);
      return record.readInt16LE(0) !== F_UNLCK;
    },
    readCached(fd, buffers, offset) {
      for (const buffer of buffers) if (buffer.length < STABLE_BYTES_MIN) return -1;
      const vector = buffers.map((base) => ({ base, length: base.length }));
      return preadv2(fd, vector, vector.length, offset, RWF_NOWAIT) as number;
    },
  };
}

function seekResult(result: number, errno: number): number | undefined {
  return errno === ENXIO ? undefined : checked("lseek", result, errno);
}

function checked(call: string, result: number, errno: number): number {
  if (errno !== 0) throw systemError(errno, call);
  return result;
}

class ErrnoCall<Parameters extends readonly unknown[], T> implements HostCall<Parameters, T> {
  readonly #call: NativeCall;
  readonly #errno: () => number;
  readonly #encode: (...parameters: Parameters) => unknown[];
  readonly #decode: (result: number, errno: number) => T;

  constructor(
    call: NativeCall,
    errno: () => number,
    encode: (...parameters: Parameters) => unknown[],
    decode: (result: number, errno: number) => T,
  ) {
    this.#call = call;
    this.#errno = errno;
    this.#encode = encode;
    this.#decode = decode;
  }

  sync(...parameters: Parameters): T {
    for (;;) {
      const result = this.#call(...this.#encode(...parameters));
      const code = result < 0 ? this.#errno() : 0;
      if (code !== EINTR) return this.#decode(result, code);
    }
  }

  start(done: CallDone<T>, ...parameters: Parameters): void {
    this.#call.async(...this.#encode(...parameters), (failure: unknown, result: number) => {
      if (failure !== null && failure !== undefined) return done(failure);
      const code = result < 0 ? this.#errno() : 0;
      if (code === EINTR) return this.start(done, ...parameters);
      let value: T;
      try {
        value = this.#decode(result, code);
      } catch (error) {
        return done(error);
      }
      done(undefined, value);
    });
  }
}
