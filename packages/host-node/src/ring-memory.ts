/** Sets an io_uring up, and finds its parts in the memory that the kernel shares. */
import type { Koffi, NativeCall } from "./koffi-library.ts";
import { sharingCalls } from "./sharing-calls.ts";

const IO_URING_SETUP = 425;
const IORING_OFF_SQES = 0x1000_0000;
const IORING_SETUP_SINGLE_ISSUER = 0x1000;
const IORING_SETUP_DEFER_TASKRUN = 0x2000;
/**
 * One mapping for both rings, nothing lost when many end at once, entries copied when they are handed over, waiting with an end,
 * and the last of 5.13's, with which polls can stay.
 */
const FEATURES_NEEDED = 0b101_0000_0111;

const SQE_BYTES = 64;
const CQE_BYTES = 16;

// struct io_uring_params, in words.
const PARAMS_BYTES = 120;
const PARAM_SQ_ENTRIES = 0;
const PARAM_CQ_ENTRIES = 1;
const PARAM_FLAGS = 2;
const PARAM_FEATURES = 5;
const SQ_OFFSETS = 10;
const CQ_OFFSETS = 20;
// Places in both lists of offsets, and in one of them.
const HEAD = 0;
const TAIL = 1;
const MASK = 2;
const SQ_FLAGS = 4;
const SQ_ARRAY = 6;
const CQ_CQES = 5;

interface RingParameters {
  readonly fd: number;
  readonly entries: number;
  readonly completions: number;
  /** Bytes. */
  readonly sq: readonly number[];
  readonly cq: readonly number[];
}

/** Places are indices of `words`. */
export interface RingMemory {
  readonly fd: number;
  readonly words: Uint32Array;
  readonly entries: Uint32Array;
  readonly entryTail: number;
  readonly entryMask: number;
  readonly flags: number;
  readonly head: number;
  readonly tail: number;
  readonly completions: number;
  readonly completionMask: number;
  readonly mappings: readonly (readonly [address: number, length: number])[];
}

/** @returns null where the kernel is too old, or forbids it. */
export function setUpRing(koffi: Koffi, entries: number): RingParameters | null {
  const setup: NativeCall = koffi
    .load(null)
    .func("long syscall(long number, unsigned int entries, intptr_t parameters)");
  // Results that come in only when this thread asks do not interrupt it; kernels before 6.1 have no such way.
  const flags = IORING_SETUP_SINGLE_ISSUER + IORING_SETUP_DEFER_TASKRUN;
  return trySetUp(setup, entries, flags) ?? trySetUp(setup, entries, 0);
}

function trySetUp(setup: NativeCall, entries: number, flags: number): RingParameters | null {
  const calls = sharingCalls();
  const address = calls.allocate(PARAMS_BYTES);
  try {
    const parameters = new Uint32Array(calls.view(address, PARAMS_BYTES));
    parameters[PARAM_FLAGS] = flags;
    const fd = setup(IO_URING_SETUP, entries, address);
    if (fd < 0) return null;
    if (((parameters[PARAM_FEATURES] as number) & FEATURES_NEEDED) !== FEATURES_NEEDED) {
      calls.close(fd);
      return null;
    }
    return {
      fd,
      entries: parameters[PARAM_SQ_ENTRIES] as number,
      completions: parameters[PARAM_CQ_ENTRIES] as number,
      sq: [...parameters.subarray(SQ_OFFSETS, SQ_OFFSETS + 8)],
      cq: [...parameters.subarray(CQ_OFFSETS, CQ_OFFSETS + 8)],
    };
  } finally {
    calls.unmap(address, PARAMS_BYTES);
  }
}

export function mapRing({ fd, entries: entryCount, completions, sq, cq }: RingParameters): RingMemory {
  const calls = sharingCalls();
  const [array, cqes] = [sq[SQ_ARRAY] as number, cq[CQ_CQES] as number];
  const length = Math.max(array + 4 * entryCount, cqes + CQE_BYTES * completions);
  const address = calls.map(fd, 0, length);
  const entriesLength = SQE_BYTES * entryCount;
  const entriesAddress = calls.map(fd, IORING_OFF_SQES, entriesLength);
  const words = new Uint32Array(calls.view(address, length));
  for (let index = 0; index < entryCount; index++) words[array / 4 + index] = index;
  const wordOf = (bytes: number | undefined): number => (bytes as number) / 4;
  return {
    fd,
    words,
    entries: new Uint32Array(calls.view(entriesAddress, entriesLength)),
    entryTail: wordOf(sq[TAIL]),
    entryMask: words[wordOf(sq[MASK])] as number,
    flags: wordOf(sq[SQ_FLAGS]),
    head: wordOf(cq[HEAD]),
    tail: wordOf(cq[TAIL]),
    completions: wordOf(cqes),
    completionMask: words[wordOf(cq[MASK])] as number,
    mappings: [
      [address, length],
      [entriesAddress, entriesLength],
    ],
  };
}
