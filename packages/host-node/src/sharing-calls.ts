/**
 * System calls with which processes share memory and descriptors: mappings, eventfd, poll, and Unix sockets whose messages
 * carry descriptors. Node has none of them, and there is no plain way without koffi. What calls read and write lies in
 * one mapped page of each thread: the garbage collector moves small arrays.
 */
import { BlockError } from "@spindle/base";
import { systemError } from "./host-errors.ts";
import { type Koffi, koffiLibrary, type NativeCall } from "./koffi-library.ts";

const EINTR = 4;
const EAGAIN = 11;
const EOPNOTSUPP = 95;
const ECONNRESET = 104;

const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;
const MAP_PRIVATE_ANONYMOUS = 0x22;
const MFD_CLOEXEC = 1;
const EFD_CLOEXEC_NONBLOCK = 0x80800;
const RWF_NOWAIT = 8;
const O_CLOEXEC = 0x80000;
const POLLIN = 1;
const AF_UNIX = 1;
const SOCK_STREAM_CLOEXEC = 0x80001;
const SOCK_CLOEXEC = 0x80000;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const MSG_CTRUNC = 8;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x4000_0000;

/** A view of more than 4 GiB ends the process. */
const VIEW_BYTES_MAX: number = 2 ** 32;

// The scratch page and what follows it.
const POLL_AT = 0;
const COUNTER_AT = 512;
const COUNTER_VECTOR_AT = 528;
const PAIR_AT = 544;
const MESSAGE_AT = 1024;
const VECTOR_AT = 1088;
const ADDRESS_AT = 1152;
const CONTROL_AT = 1280;
/** Pieces of memory of one read. */
const PIECES_AT = 2048;
const PIECES_MAX = 128;
const DATA_AT = 4096;
const SCRATCH_BYTES = 16_384;

/** Bytes of one message that are sent or received at once. */
export const MESSAGE_BYTES_MAX: number = SCRATCH_BYTES - DATA_AT;
/** Descriptors that one call receives; the kernel closes those beyond. */
const DESCRIPTORS_MAX = 64;
const CONTROL_HEADER_BYTES = 16;
const CONTROL_BYTES: number = CONTROL_HEADER_BYTES + 4 * DESCRIPTORS_MAX;

/** The longest path that fits a socket address on Linux, without its final NUL. */
export const PATH_BYTES_MAX = 107;

/** What came over a socket. The descriptors are the receiver's to close. */
export interface Received {
  readonly bytes: Uint8Array;
  readonly descriptors: readonly number[];
  /** More descriptors came than are taken. */
  readonly truncated: boolean;
}

let loaded: SharingCalls | undefined;

/** The calls, for the calling thread. @throws {BlockError} ENOTSUP where they are not to be had. */
export function sharingCalls(): SharingCalls {
  if (loaded === undefined) {
    const koffi = koffiLibrary();
    if (koffi === null)
      throw new BlockError("ENOTSUP", "sharing memory with other processes needs Linux and the package 'koffi'");
    loaded = new SharingCalls(koffi);
  }
  return loaded;
}

/** Descriptors and addresses are the process's; one of these serves one thread. */
export class SharingCalls {
  readonly #koffi: Koffi;
  readonly #functions: ReturnType<typeof bind>;
  readonly #scratch: number;
  readonly #view: DataView;
  readonly #bytes: Uint8Array;
  readonly #addresses: WeakMap<ArrayBufferLike, number> = new WeakMap();

  /** Made by {@link sharingCalls}. */
  constructor(koffi: Koffi) {
    this.#koffi = koffi;
    this.#functions = bind(koffi);
    this.#scratch = this.allocate(SCRATCH_BYTES);
    const memory = koffi.view(this.#scratch, SCRATCH_BYTES);
    this.#view = new DataView(memory);
    this.#bytes = new Uint8Array(memory);
  }

  /** Memory of whole pages, of zeros. @returns its address. */
  allocate(length: number): number {
    const { mmap } = this.#functions;
    return this.#check("mmap", mmap(0, length, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0));
  }

  /** Maps bytes of a file, shared, for reading and writing. @returns their address. */
  map(fd: number, offset: number, length: number): number {
    return this.#check("mmap", this.#functions.mmap(0, length, PROT_READ_WRITE, MAP_SHARED, fd, offset));
  }

  /** Ends a mapping. No thread uses a view of it any more: a view cannot be taken back. */
  unmap(address: number, length: number): void {
    this.#check("munmap", this.#functions.munmap(address, length));
  }

  /** Mapped memory as this thread sees it; at most 4 GiB. */
  view(address: number, length: number): ArrayBuffer {
    if (length > VIEW_BYTES_MAX) throw new BlockError("EINVAL", "a view of more than 4 GiB");
    const memory = this.#koffi.view(address, length);
    this.#addresses.set(memory, address);
    return memory;
  }

  /** Where bytes stand that are part of a {@link view} of this thread; undefined for all others, which may move. */
  addressOf({ buffer, byteOffset }: Uint8Array): number | undefined {
    const address = this.#addresses.get(buffer);
    return address === undefined ? undefined : address + byteOffset;
  }

  /** A file in memory, of zeros. */
  createMemoryFile(name: string, length: number): number {
    const fd = this.#check("memfd_create", this.#functions.memfdCreate(name, MFD_CLOEXEC));
    return this.#keepIf(fd, () => this.#check("ftruncate", this.#functions.ftruncate(fd, length)));
  }

  /** An eventfd that does not block. */
  createEvent(): number {
    return this.#check("eventfd", this.#functions.eventfd(0, EFD_CLOEXEC_NONBLOCK));
  }

  /** Makes an eventfd readable. */
  signal(fd: number): void {
    // EAGAIN says that it is readable as often as it can be; what else goes wrong is the other side's loss.
    this.#functions.eventfdWrite(fd, 1);
  }

  /** Takes what an eventfd holds, without waiting, whether or not it blocks: its flags are the other side's as well. */
  drain(fd: number): void {
    this.#setVector(COUNTER_VECTOR_AT, COUNTER_AT, 8);
    this.#functions.preadv2(fd, this.#scratch + COUNTER_VECTOR_AT, 1, -1, RWF_NOWAIT);
  }

  /**
   * Reads what the page cache has into parts of views, without waiting for a disk.
   * @returns bytes read; -1 when the cache has not got the first of them, or the buffers are none or too many; undefined where
   *   the file system cannot tell.
   */
  readCached(fd: number, buffers: readonly Uint8Array[], offset: number): number | undefined {
    if (buffers.length > PIECES_MAX) return -1;
    let at = PIECES_AT;
    for (const buffer of buffers) {
      const address = this.addressOf(buffer);
      if (address === undefined) return -1;
      this.#setAddressAt(at, address);
      this.#setAddressAt(at + 8, buffer.length);
      at += 16;
    }
    const count = this.#functions.preadv2(fd, this.#scratch + PIECES_AT, buffers.length, offset, RWF_NOWAIT);
    return count < 0 && this.#koffi.errno() === EOPNOTSUPP ? undefined : count;
  }

  /** Closes what these calls have given: Node complains of descriptors that are closed on another thread. */
  close(fd: number): void {
    this.#functions.close(fd);
  }

  /** Makes a descriptor mean what another one means, at once for all threads. */
  replace(fd: number, by: number): void {
    this.#check("dup3", this.#functions.dup3(by, fd, O_CLOEXEC));
  }

  /**
   * Waits until one of the descriptors is readable or broken, or for at most `timeoutMs`.
   * @returns for each a bit, the first being bit 0; 0 when the time is over or a signal came.
   */
  poll(descriptors: readonly number[], timeoutMs?: number): number {
    const view = this.#view;
    descriptors.forEach((fd, index) => {
      view.setInt32(POLL_AT + 8 * index, fd, true);
      view.setUint32(POLL_AT + 8 * index + 4, POLLIN, true);
    });
    const timeout = timeoutMs === undefined ? -1 : Math.min(Math.ceil(timeoutMs), 2 ** 31 - 1);
    const count = this.#functions.poll(this.#scratch + POLL_AT, descriptors.length, timeout);
    if (count <= 0) {
      if (count < 0 && this.#koffi.errno() !== EINTR) this.#check("poll", count);
      return 0;
    }
    let ready = 0;
    for (let index = 0; index < descriptors.length; index++)
      if (view.getUint16(POLL_AT + 8 * index + 6, true) !== 0) ready |= 1 << index;
    return ready;
  }

  /** A Unix socket that listens at a path where nothing is yet. */
  listen(path: string): number {
    const fd = this.#check("socket", this.#functions.socket(AF_UNIX, SOCK_STREAM_CLOEXEC, 0));
    return this.#keepIf(fd, () => {
      const length = this.#setAddress(path);
      this.#check("bind", this.#functions.bind(fd, this.#scratch + ADDRESS_AT, length));
      this.#check("listen", this.#functions.listen(fd, 1));
    });
  }

  /** Two Unix sockets that are connected to each other. */
  socketPair(): [number, number] {
    this.#check("socketpair", this.#functions.socketpair(AF_UNIX, SOCK_STREAM_CLOEXEC, 0, this.#scratch + PAIR_AT));
    return [this.#view.getInt32(PAIR_AT, true), this.#view.getInt32(PAIR_AT + 4, true)];
  }

  connect(path: string): number {
    const fd = this.#check("socket", this.#functions.socket(AF_UNIX, SOCK_STREAM_CLOEXEC, 0));
    return this.#keepIf(fd, () => {
      const length = this.#setAddress(path);
      this.#check("connect", this.#functions.connect(fd, this.#scratch + ADDRESS_AT, length));
    });
  }

  /** The next connection; undefined when it has gone again. */
  accept(fd: number): number | undefined {
    const connection = this.#functions.accept4(fd, 0, 0, SOCK_CLOEXEC);
    return connection < 0 ? undefined : connection;
  }

  /**
   * Takes what has come over a socket, at most `length` bytes, without waiting.
   * @returns undefined when the other side is gone, no bytes when nothing is there.
   */
  receive(fd: number, length: number): Received | undefined {
    this.#setMessage(Math.min(length, MESSAGE_BYTES_MAX), CONTROL_BYTES);
    const flags = MSG_DONTWAIT | MSG_CMSG_CLOEXEC;
    const count = this.#functions.recvmsg(fd, this.#scratch + MESSAGE_AT, flags);
    if (count < 0) {
      const errno = this.#koffi.errno();
      if (errno === EAGAIN || errno === EINTR) return { bytes: new Uint8Array(0), descriptors: [], truncated: false };
      if (errno === ECONNRESET) return undefined;
      throw systemError(errno, "recvmsg");
    }
    const descriptors = this.#receivedDescriptors();
    const truncated = (this.#view.getUint32(MESSAGE_AT + 48, true) & MSG_CTRUNC) !== 0;
    if (count === 0) return undefined;
    return { bytes: this.#bytes.slice(DATA_AT, DATA_AT + count), descriptors, truncated };
  }

  /** Sends bytes and descriptors, without waiting. @returns the bytes that were sent; -1 when the other side takes none. */
  send(fd: number, bytes: Uint8Array, descriptors: readonly number[] = []): number {
    const view = this.#view;
    const length = Math.min(bytes.length, MESSAGE_BYTES_MAX);
    this.#bytes.set(bytes.subarray(0, length), DATA_AT);
    const controlBytes = descriptors.length === 0 ? 0 : CONTROL_HEADER_BYTES + 4 * descriptors.length;
    this.#setMessage(length, controlBytes);
    if (controlBytes > 0) {
      view.setUint32(CONTROL_AT, controlBytes, true);
      view.setUint32(CONTROL_AT + 4, 0, true);
      view.setUint32(CONTROL_AT + 8, SOL_SOCKET, true);
      view.setUint32(CONTROL_AT + 12, SCM_RIGHTS, true);
      descriptors.forEach((one, index) => {
        view.setInt32(CONTROL_AT + CONTROL_HEADER_BYTES + 4 * index, one, true);
      });
    }
    return this.#functions.sendmsg(fd, this.#scratch + MESSAGE_AT, MSG_DONTWAIT | MSG_NOSIGNAL);
  }

  /** struct msghdr with one piece of data. */
  #setMessage(length: number, controlBytes: number): void {
    this.#bytes.fill(0, MESSAGE_AT, VECTOR_AT);
    this.#bytes.fill(0, CONTROL_AT, CONTROL_AT + CONTROL_HEADER_BYTES);
    this.#setVector(VECTOR_AT, DATA_AT, length);
    this.#setAddressAt(MESSAGE_AT + 16, this.#scratch + VECTOR_AT);
    this.#view.setUint32(MESSAGE_AT + 24, 1, true);
    if (controlBytes > 0) this.#setAddressAt(MESSAGE_AT + 32, this.#scratch + CONTROL_AT);
    // Sent controls are padded to words.
    this.#view.setUint32(MESSAGE_AT + 40, Math.ceil(controlBytes / 8) * 8, true);
  }

  #receivedDescriptors(): number[] {
    const view = this.#view;
    const controlBytes = view.getUint32(MESSAGE_AT + 40, true);
    if (controlBytes < CONTROL_HEADER_BYTES) return [];
    const level = view.getUint32(CONTROL_AT + 8, true);
    if (level !== SOL_SOCKET || view.getUint32(CONTROL_AT + 12, true) !== SCM_RIGHTS) return [];
    const count = Math.floor((view.getUint32(CONTROL_AT, true) - CONTROL_HEADER_BYTES) / 4);
    return Array.from({ length: count }, (_, index) =>
      view.getInt32(CONTROL_AT + CONTROL_HEADER_BYTES + 4 * index, true),
    );
  }

  #setVector(at: number, data: number, length: number): void {
    this.#setAddressAt(at, this.#scratch + data);
    this.#setAddressAt(at + 8, length);
  }

  #setAddressAt(at: number, address: number): void {
    this.#view.setUint32(at, address % 2 ** 32, true);
    this.#view.setUint32(at + 4, Math.floor(address / 2 ** 32), true);
  }

  /** struct sockaddr_un. @returns its length. */
  #setAddress(path: string): number {
    const name = Buffer.from(`${path}\0`);
    if (name.length > PATH_BYTES_MAX + 1)
      throw new BlockError("EINVAL", `the socket path '${path}' is longer than ${PATH_BYTES_MAX} bytes`, { path });
    this.#view.setUint16(ADDRESS_AT, AF_UNIX, true);
    this.#bytes.set(name, ADDRESS_AT + 2);
    return 2 + name.length;
  }

  /** Closes a descriptor again when the rest fails. */
  #keepIf(fd: number, rest: () => void): number {
    try {
      rest();
      return fd;
    } catch (error) {
      this.close(fd);
      throw error;
    }
  }

  #check(call: string, result: number): number {
    if (result < 0) throw systemError(this.#koffi.errno(), call);
    return result;
  }
}

/** Addresses are passed as numbers: user space ends far below 2^53. */
function bind(koffi: Koffi) {
  const library = koffi.load(null);
  const call = (prototype: string): NativeCall => library.func(prototype) as NativeCall;
  return {
    mmap: call("intptr_t mmap(intptr_t address, size_t length, int protection, int flags, int fd, int64_t offset)"),
    munmap: call("int munmap(intptr_t address, size_t length)"),
    memfdCreate: call("int memfd_create(const char *name, unsigned int flags)"),
    ftruncate: call("int ftruncate(int fd, int64_t length)"),
    eventfd: call("int eventfd(unsigned int value, int flags)"),
    eventfdWrite: call("int eventfd_write(int fd, uint64_t value)"),
    preadv2: call("int64_t preadv2(int fd, intptr_t vector, int count, int64_t offset, int flags)"),
    close: call("int close(int fd)"),
    dup3: call("int dup3(int by, int fd, int flags)"),
    poll: call("int poll(intptr_t descriptors, unsigned long count, int timeout)"),
    socket: call("int socket(int domain, int type, int protocol)"),
    socketpair: call("int socketpair(int domain, int type, int protocol, intptr_t pair)"),
    bind: call("int bind(int fd, intptr_t address, unsigned int length)"),
    listen: call("int listen(int fd, int backlog)"),
    connect: call("int connect(int fd, intptr_t address, unsigned int length)"),
    accept4: call("int accept4(int fd, intptr_t address, intptr_t length, int flags)"),
    recvmsg: call("int64_t recvmsg(int fd, intptr_t message, int flags)"),
    sendmsg: call("int64_t sendmsg(int fd, intptr_t message, int flags)"),
  };
}
