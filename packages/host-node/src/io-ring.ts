/**
 * One io_uring of the kernel (Linux 5.13 and newer), for the thread that opens it: transfers and polls are put in, handed over
 * together, and each ends with a call back. The memory that the kernel shares is reached through views of its mappings; see
 * io_uring(7).
 */
import type { Direction, FileTransfer } from "./file-transfer.ts";
import { systemError } from "./host-errors.ts";
import { koffiLibrary, type NativeCall } from "./koffi-library.ts";
import { mapRing, type RingMemory, setUpRing } from "./ring-memory.ts";
import { type SharingCalls, sharingCalls } from "./sharing-calls.ts";

const IO_URING_ENTER = 426;
const IORING_ENTER_GETEVENTS = 1;
const IORING_ENTER_EXT_ARG = 8;
const IORING_SQ_CQ_OVERFLOW = 2;
const IORING_CQE_F_MORE = 2;

const IORING_OP_POLL_ADD = 6;
const IORING_OP_POLL_REMOVE = 7;
const OPCODES: Record<Direction, { readonly single: number; readonly vectored: number }> = {
  read: { single: 22, vectored: 1 },
  write: { single: 23, vectored: 2 },
};
const IORING_POLL_ADD_MULTI = 1;
const IOSQE_ASYNC = 16;
const POLLIN = 1;

const EINTR = 4;
const EAGAIN = 11;
const EBUSY = 16;
const ETIME = 62;

const SQE_WORDS = 16;
const CQE_WORDS = 4;
const WORD = 2 ** 32;
/** The flags stand in the second byte of an entry. */
const FLAGS = 2 ** 8;

// One mapping of this side: the arguments of a wait, then the pieces of memory of what is not handed over yet.
const TIME_AT = 32;
const ARGUMENT_BYTES = 24;
const PIECES_AT = 64;
const PIECE_BYTES = 16;
/** Pieces of one transfer, and of all that are handed over together. */
const PIECES_MAX = 1024;

/** Transfers that are handed over together: the device has the first of many before the last was put in. */
const GROUP = 4;

/** Told how an entry has ended: what the system call would have returned, or a negative errno. `more` says that it goes on. */
type Ended = (result: number, more: boolean) => void;

/** An entry for the kernel, in the order in which its words stand; addresses and offsets are bytes. */
interface Entry {
  readonly opcode: number;
  readonly flags?: number;
  readonly fd: number;
  readonly offset: number;
  readonly address: number;
  readonly length: number;
  readonly events: number;
}

export class IoRing {
  readonly #calls: SharingCalls;
  readonly #enter: NativeCall;
  readonly #errno: () => number;
  readonly #memory: RingMemory;
  readonly #own: number;
  readonly #ownWords: Uint32Array;
  /** Entries, and pieces of memory of theirs, that are not handed over yet. */
  #fresh = 0;
  #pieces = 0;
  /** By the tag of an entry that is the kernel's. */
  readonly #ended: (Ended | undefined)[] = [];
  readonly #freeTags: number[] = [];

  /**
   * @param entries a power of two: so many are handed over at once
   * @returns null where the kernel is too old, or forbids it
   */
  static open(entries: number): IoRing | null {
    const koffi = koffiLibrary();
    const memory = koffi === null ? null : setUpRing(koffi, entries);
    if (koffi === null || memory === null) return null;
    const enter: NativeCall = koffi
      .load(null)
      .func(
        "long syscall(long number, unsigned int fd, unsigned int count, unsigned int least, unsigned int flags, intptr_t argument, size_t size)",
      );
    return new IoRing(enter, () => koffi.errno(), mapRing(memory));
  }

  private constructor(enter: NativeCall, errno: () => number, memory: RingMemory) {
    this.#calls = sharingCalls();
    this.#enter = enter;
    this.#errno = errno;
    this.#memory = memory;
    const length = PIECES_AT + PIECES_MAX * PIECE_BYTES;
    this.#own = this.#calls.allocate(length);
    this.#ownWords = new Uint32Array(this.#calls.view(this.#own, length));
  }

  /**
   * Puts what is left of a transfer in; only the first 1024 buffers take part. They are the kernel's until it has ended.
   * What is only copied is copied on threads of the kernel's, side by side, without an attempt in this one.
   * @returns false when the buffers are memory that may move.
   */
  transfer({ direction, fd, position, remaining, copied }: FileTransfer, ended: Ended): boolean {
    const { buffers } = remaining;
    const [only] = buffers;
    const single = buffers.length === 1 && only !== undefined;
    const address = single ? this.#calls.addressOf(only) : this.#list(buffers);
    if (address === undefined) return false;
    const length = single ? only.length : Math.min(buffers.length, PIECES_MAX);
    const opcode = OPCODES[direction][single ? "single" : "vectored"];
    this.#push({ opcode, flags: copied ? IOSQE_ASYNC : 0, fd, offset: position, address, length, events: 0 }, ended);
    if (this.#fresh >= GROUP) this.submit();
    return true;
  }

  /**
   * Calls back whenever a descriptor has become readable once more: for eventfds, with every write.
   * @returns ends that
   */
  watch(fd: number, ready: () => void): () => void {
    let tag: number | undefined;
    let watching = true;
    const arm = (): void => {
      const entry = {
        opcode: IORING_OP_POLL_ADD,
        fd,
        offset: 0,
        address: 0,
        length: IORING_POLL_ADD_MULTI,
        events: POLLIN,
      };
      tag = this.#push(entry, (result, more) => {
        if (!more) tag = undefined;
        if (watching) ready();
        // The kernel gives up when it has no room for a result.
        if (watching && !more && result >= 0) arm();
      });
    };
    arm();
    return () => {
      watching = false;
      if (tag === undefined) return;
      this.#push({ opcode: IORING_OP_POLL_REMOVE, fd: -1, offset: 0, address: tag, length: 0, events: 0 }, () => {});
    };
  }

  /** Hands over what was put in. */
  submit(): void {
    while (this.#fresh > 0) this.#call(0, IORING_ENTER_GETEVENTS, 0, 0);
  }

  /** Hands over what the kernel takes, and sleeps until something has ended, or for at most `timeoutMs`. */
  submitAndWait(timeoutMs?: number): void {
    if (timeoutMs === undefined) this.#call(1, IORING_ENTER_GETEVENTS, 0, 0);
    else {
      const at = TIME_AT / 4;
      const seconds = Math.floor(timeoutMs / 1000);
      this.#ownWords[at] = seconds % WORD;
      this.#ownWords[at + 1] = Math.floor(seconds / WORD);
      this.#ownWords[at + 2] = Math.floor((timeoutMs - seconds * 1000) * 1e6);
      const time = this.#own + TIME_AT;
      this.#ownWords[4] = time % WORD;
      this.#ownWords[5] = Math.floor(time / WORD);
      this.#call(1, IORING_ENTER_GETEVENTS + IORING_ENTER_EXT_ARG, this.#own, ARGUMENT_BYTES);
    }
  }

  /** Calls back for all that has ended, as far as it is known without asking the kernel. */
  reap(): void {
    const { words, head, tail, completions, completionMask, flags } = this.#memory;
    for (;;) {
      let at = words[head] as number;
      for (const end = Atomics.load(words, tail); at !== end; ) {
        const base = completions + (at & completionMask) * CQE_WORDS;
        const tag = words[base] as number;
        const result = (words[base + 2] as number) | 0;
        const more = ((words[base + 3] as number) & IORING_CQE_F_MORE) !== 0;
        at = (at + 1) >>> 0;
        Atomics.store(words, head, at);
        this.#end(tag, result, more);
      }
      // What had no room comes in now.
      if ((Atomics.load(words, flags) & IORING_SQ_CQ_OVERFLOW) === 0) return;
      this.#call(0, IORING_ENTER_GETEVENTS, 0, 0);
    }
  }

  /** No transfer is in flight. */
  close(): void {
    for (const [address, length] of this.#memory.mappings) this.#calls.unmap(address, length);
    this.#calls.unmap(this.#own, PIECES_AT + PIECES_MAX * PIECE_BYTES);
    this.#calls.close(this.#memory.fd);
  }

  #end(tag: number, result: number, more: boolean): void {
    const ended = this.#ended[tag];
    if (!more) {
      this.#ended[tag] = undefined;
      this.#freeTags.push(tag);
    }
    ended?.(result, more);
  }

  /** @returns the tag of the entry. */
  #push({ opcode, flags = 0, fd, offset, address, length, events }: Entry, ended: Ended): number {
    const { words, entries, entryMask, entryTail } = this.#memory;
    if (this.#fresh > entryMask) this.submit();
    const tag = this.#freeTags.pop() ?? this.#ended.length;
    this.#ended[tag] = ended;
    const tail = words[entryTail] as number;
    const base = (tail & entryMask) * SQE_WORDS;
    entries.fill(0, base, base + SQE_WORDS);
    entries[base] = opcode + flags * FLAGS;
    entries[base + 1] = fd;
    entries[base + 2] = offset % WORD;
    entries[base + 3] = Math.floor(offset / WORD);
    entries[base + 4] = address % WORD;
    entries[base + 5] = Math.floor(address / WORD);
    entries[base + 6] = length;
    entries[base + 7] = events;
    entries[base + 8] = tag;
    Atomics.store(words, entryTail, (tail + 1) >>> 0);
    this.#fresh += 1;
    return tag;
  }

  /** @returns the address of the list of pieces; undefined when one of them may move. */
  #list(buffers: readonly Uint8Array[]): number | undefined {
    const count = Math.min(buffers.length, PIECES_MAX);
    if (this.#pieces + count > PIECES_MAX) this.submit();
    const first = PIECES_AT + this.#pieces * PIECE_BYTES;
    for (let index = 0; index < count; index++) {
      const buffer = buffers[index] as Uint8Array;
      const address = this.#calls.addressOf(buffer);
      if (address === undefined) return undefined;
      const at = (first + index * PIECE_BYTES) / 4;
      this.#ownWords[at] = address % WORD;
      this.#ownWords[at + 1] = Math.floor(address / WORD);
      this.#ownWords[at + 2] = buffer.length;
    }
    this.#pieces += count;
    return this.#own + first;
  }

  /** One call of the kernel. Short of memory it takes less than there is, until others have ended. */
  #call(least: number, flags: number, argument: number, size: number): void {
    const taken = this.#enter(IO_URING_ENTER, this.#memory.fd, this.#fresh, least, flags, argument, size);
    if (taken < 0) {
      const errno = this.#errno();
      if (errno === EINTR || errno === EAGAIN || errno === EBUSY || errno === ETIME) return;
      throw systemError(errno, "io_uring_enter");
    }
    this.#fresh -= taken;
    // The lists of pieces are copied with the entries.
    if (this.#fresh === 0) this.#pieces = 0;
  }
}
