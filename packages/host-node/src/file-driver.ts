/**
 * The protocol driver `file`: a file or block device of the host. Requests go to the descriptor at their own offsets, so
 * that other threads may use the same descriptor beside this driver.
 */
import * as fs from "node:fs";
import { BlockError, type Co, isBlockError } from "@spindle/base";
import {
  type BlockDriver,
  type DescriptorIo,
  type DriverDefinition,
  type Extent,
  type ImageInformation,
  IoVector,
  type OpenRequest,
  type Preallocation,
  type StorageClaim,
  type WriteFlags,
  zeroExtent,
} from "@spindle/block";
import { descriptorIo, memoryDescriptorIo } from "./descriptor-io.ts";
import { DirectIo } from "./direct-io.ts";
import { type Attempt, hostOperation, hostSync, linuxOperation } from "./host-operation.ts";
import { ImageLock } from "./image-lock.ts";
import { FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE, linuxCalls } from "./linux-calls.ts";
import { describeFile, type OpenedFile, openFile } from "./open-file.ts";

const PUNCH = FALLOC_FL_PUNCH_HOLE + FALLOC_FL_KEEP_SIZE;

/** Zeros are written from one buffer of this size when the file system cannot make them. */
const ZERO_BUFFER_BYTES: number = 1024 * 1024;

interface FileOptions {
  readonly filename: string;
  readonly readOnly: boolean;
  /** The descriptor belongs to another thread, which closes it. */
  readonly borrowed: boolean;
  /** Flushes do nothing: whoever writes does not care for a loss of power. */
  readonly noFlush: boolean;
  /** Whether other programs are told, and asked, what the file is used for. */
  readonly locks: boolean;
  /** How the file is read and written past the page cache, if it is. */
  readonly direct: DirectIo | undefined;
}

class FileDriver implements BlockDriver {
  readonly name = "file";
  readonly requestAlignment = 1;
  readonly clusterSize = 1;
  readonly growable: boolean;
  readonly identity: string;
  readonly #fd: number;
  readonly #io: DescriptorIo;
  readonly #options: FileOptions;
  readonly #lock: ImageLock | null;
  readonly #isBlockDevice: boolean;
  /** The length when it cannot change: of devices and of files opened read-only. */
  readonly #fixedLength: number | undefined;
  /** Modes of `fallocate` that this file has refused. */
  readonly #refused: Set<number> = new Set();
  #flushFailure: BlockError | undefined;
  /** The last run of data that was found in a file that nobody writes: finding its end may mean to walk all its pages. */
  #dataRun = { start: 0, end: 0 };

  constructor(file: OpenedFile, options: FileOptions) {
    this.#fd = file.fd;
    this.#io = file.isInMemory ? memoryDescriptorIo : descriptorIo;
    this.identity = file.identity;
    this.#options = options;
    const calls = options.locks ? linuxCalls() : null;
    this.#lock = calls === null ? null : new ImageLock(calls, file.fd, options.filename);
    this.#isBlockDevice = file.isBlockDevice;
    this.growable = !file.isBlockDevice && !options.readOnly;
    this.#fixedLength = this.growable ? undefined : file.length;
  }

  /** For data movers, unless all writes have to pass here. */
  get fileDescriptor(): number | undefined {
    return this.#options.direct?.canBeShared === false ? undefined : this.#fd;
  }

  *claim(claim: StorageClaim): Co<void> {
    this.#lock?.add(claim);
  }

  /** Asks the file: data movers on other threads make it longer too. */
  length(): number {
    if (this.#fixedLength !== undefined) return this.#fixedLength;
    const fd = this.#fd;
    return hostSync(this.#attempt("tell the length of", "length"), () => {
      return linuxCalls()?.seekEnd(fd) ?? fs.fstatSync(fd).size;
    });
  }

  read(offset: number, vector: IoVector): Co<void> {
    return this.#options.direct?.read(offset, vector) ?? this.#io.read(this.#fd, offset, vector);
  }

  write(offset: number, vector: IoVector): Co<void> {
    return this.#options.direct?.write(offset, vector) ?? this.#io.write(this.#fd, offset, vector);
  }

  *writeZeroes(offset: number, length: number, flags: WriteFlags): Co<void> {
    if (length === 0) return;
    const end = offset + length;
    const inside = Math.min(end, this.length()) - offset;
    if (inside > 0 && !(yield* this.#zeroInside(offset, inside, flags.mayUnmap === true))) {
      if (flags.noFallback === true) throw new BlockError("ENOTSUP", "the file system makes no zeros");
      yield* this.#writeZeroBytes(offset, inside);
    }
    // The last byte makes the file reach the end; what lies between reads as zeros. Setting the length instead could cut
    // off what another request has just written further on.
    if (inside < length) yield* this.write(end - 1, IoVector.of(new Uint8Array(1)));
  }

  *discard(offset: number, length: number): Co<void> {
    const inside = Math.min(offset + length, this.length()) - offset;
    if (inside > 0) yield* this.#allocate(PUNCH, offset, inside);
  }

  *flush(): Co<void> {
    // The kernel tells of a failed write-back once, and takes the pages for clean afterwards: a later success would
    // promise what is not so.
    if (this.#flushFailure !== undefined) throw this.#flushFailure;
    if (this.#options.readOnly || this.#options.noFlush) return;
    const fd = this.#fd;
    try {
      yield* hostOperation<void>(
        this.#attempt("flush", "flush"),
        () => fs.fdatasyncSync(fd),
        (done) => fs.fdatasync(fd, done),
      );
    } catch (error) {
      this.#flushFailure = error as BlockError;
      throw error;
    }
  }

  *blockStatus(offset: number, length: number): Co<Extent> {
    const calls = this.#isBlockDevice ? null : linuxCalls();
    const whole: Extent = {
      length,
      allocated: true,
      zero: false,
      data: true,
      compressed: false,
      hostOffset: offset,
    };
    if (calls === null) return whole;
    const failed = this.#attempt("find the holes of", "blockStatus");
    const fd = this.#fd;
    const { start, end } = this.#dataRun;
    const known = offset >= start && offset < end;
    const data = known ? offset : yield* linuxOperation(failed, calls.seekData, fd, offset);
    if ((known || data === undefined) && calls.seekEnd(fd) < this.length())
      throw new BlockError("EIO", `'${this.#options.filename}' has become shorter while it is open`, failed);
    if (known) return { ...whole, length: Math.min(length, end - offset) };
    // What is written to a hole stands where the hole is.
    if (data === undefined || data > offset)
      return { ...zeroExtent(Math.min(length, (data ?? offset + length) - offset)), hostOffset: offset };
    const hole = yield* linuxOperation(failed, calls.seekHole, fd, offset);
    if (this.#options.readOnly && hole !== undefined) this.#dataRun = { start: offset, end: hole };
    // A file system may have made a hole of it between the two calls.
    return hole === undefined || hole <= offset ? whole : { ...whole, length: Math.min(length, hole - offset) };
  }

  *truncate(length: number, preallocation: Preallocation = "off"): Co<void> {
    const fd = this.#fd;
    const attempt = this.#attempt("resize", "truncate");
    if (this.#isBlockDevice) throw new BlockError("ENOTSUP", `${attempt.message}: a block device has a fixed length`);
    if (preallocation === "metadata")
      throw new BlockError("ENOTSUP", "Unsupported preallocation mode: metadata", { operation: "truncate" });
    const from = this.length();
    yield* hostOperation<void>(
      attempt,
      () => fs.ftruncateSync(fd, length),
      (done) => fs.ftruncate(fd, length, done),
    );
    if (length <= from || preallocation === "off") return;
    try {
      if (preallocation === "full" || !(yield* this.#allocate(FALLOC_FL_KEEP_SIZE, from, length - from)))
        yield* this.#writeZeroBytes(from, length - from);
    } catch (error) {
      // What the host has no room for is not left half-made.
      fs.ftruncateSync(fd, from);
      throw error;
    }
  }

  *close(): Co<void> {
    if (this.#options.borrowed) return;
    try {
      yield* this.flush();
    } finally {
      hostSync(this.#attempt("close", "close"), () => fs.closeSync(this.#fd));
    }
  }

  information(): ImageInformation {
    const stat = hostSync(this.#attempt("look at", "information"), () => fs.fstatSync(this.#fd));
    return { "actual-size": stat.blocks * 512 };
  }

  /** The other thread uses this descriptor and leaves closing it to this driver. */
  shareableOptions(): Readonly<Record<string, unknown>> {
    return { filename: this.#options.filename, fd: this.#fd, blockBytes: this.#options.direct?.blockBytes };
  }

  /** @returns whether the file system made the zeros. */
  *#zeroInside(offset: number, length: number, mayUnmap: boolean): Co<boolean> {
    if (mayUnmap && (yield* this.#allocate(PUNCH, offset, length))) return true;
    return yield* this.#allocate(FALLOC_FL_ZERO_RANGE + FALLOC_FL_KEEP_SIZE, offset, length);
  }

  /** @returns false where the host cannot do it. */
  *#allocate(mode: number, offset: number, length: number): Co<boolean> {
    const calls = linuxCalls();
    if (calls === null || this.#refused.has(mode)) return false;
    const failed = this.#attempt("change the space of", "fallocate");
    try {
      yield* linuxOperation(failed, calls.fallocate, this.#fd, mode, offset, length);
      return true;
    } catch (error) {
      // EINVAL is for one range only: a block device refuses those that cut its blocks.
      if (!isBlockError(error, "ENOTSUP") && !isBlockError(error, "EINVAL")) throw error;
      if (error.code === "ENOTSUP") this.#refused.add(mode);
      return false;
    }
  }

  #attempt(verb: string, operation: string): Attempt {
    return { message: `Could not ${verb} '${this.#options.filename}'`, operation };
  }

  *#writeZeroBytes(offset: number, length: number): Co<void> {
    const zeros = new Uint8Array(Math.min(length, ZERO_BUFFER_BYTES));
    for (let done = 0; done < length; ) {
      const take = Math.min(zeros.length, length - done);
      yield* this.write(offset + done, IoVector.of(zeros.subarray(0, take)));
      done += take;
    }
  }
}

/**
 * `{driver: "file", filename, locking}`; `locking` is "auto" (where the host can), "on" or "off". The options `fd` and
 * `blockBytes`, which only {@link BlockDriver.shareableOptions} gives, attach to a descriptor that another thread has open.
 */
export const fileDriver: DriverDefinition = {
  name: "file",
  kind: "protocol",
  options: { filename: "string", locking: "string" },
  *open({ options, readOnly, cache = {} }: OpenRequest): Co<BlockDriver> {
    const { filename, fd, blockBytes } = options;
    if (typeof filename !== "string") throw new BlockError("EINVAL", "The 'file' block driver requires a file name");
    const { direct = false, noFlush = false } = cache;
    const borrowed = typeof fd === "number";
    const locks = !borrowed && wantsLocks(options["locking"]);
    if (!borrowed) return openOwn(filename, readOnly, direct, { noFlush, locks });
    const shared = typeof blockBytes === "number" ? new DirectIo(fd, blockBytes) : undefined;
    return new FileDriver(describeFile(fd, filename), { filename, readOnly, borrowed, noFlush, locks, direct: shared });
  },
};

function openOwn(
  filename: string,
  readOnly: boolean,
  direct: boolean,
  more: Pick<FileOptions, "noFlush" | "locks">,
): BlockDriver {
  const file = openFile(filename, readOnly, direct);
  try {
    const past = direct ? new DirectIo(file.fd) : undefined;
    return new FileDriver(file, { filename, readOnly, borrowed: false, ...more, direct: past });
  } catch (error) {
    fs.closeSync(file.fd);
    throw error;
  }
}

/** @throws {BlockError} with QEMU's text for what is no word, ENOTSUP for `on` where the host cannot. */
function wantsLocks(locking: unknown = "auto"): boolean {
  if (locking === "on" && linuxCalls() === null)
    throw new BlockError("ENOTSUP", "Locking files needs koffi and Linux; 'locking=off' does without");
  if (locking === "auto" || locking === "on") return true;
  if (locking === "off") return false;
  throw new BlockError("EINVAL", `Parameter 'locking' does not accept value '${String(locking)}'`);
}
