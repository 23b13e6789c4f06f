/**
 * Inputs of the fuzzer: what stands in the rings' memory when the driver begins, and a list of what the driver calls. An
 * input follows from its seed, so that a seed is all that a failure needs to be a case for good.
 */
import type { ErrnoName } from "@spindle/base";
import { SeededRandom } from "@spindle/base";

/** A descriptor with everything that either form of rings has. */
export interface FuzzDescriptor {
  readonly address: bigint;
  readonly length: number;
  readonly flags: number;
  readonly next: number;
  readonly id: number;
}

export type FuzzCall =
  /** Descriptors from a place on, the first of them offered. */
  | { readonly call: "chain"; readonly place: number; readonly descriptors: readonly FuzzDescriptor[] }
  /** Offers what happens to stand there. */
  | { readonly call: "offer"; readonly head: number }
  | { readonly call: "index"; readonly value: number }
  | { readonly call: "scribble"; readonly area: number; readonly at: number; readonly value: number }
  | { readonly call: "header"; readonly at: number; readonly type: number; readonly sector: bigint }
  | { readonly call: "disk"; readonly open: boolean; readonly error: ErrnoName | undefined }
  | { readonly call: "register"; readonly offset: number; readonly value: number }
  | { readonly call: "kick" | "poll" | "collect" | "resume" | "serve" | "reset" };

export interface FuzzInput {
  readonly seed: number;
  /** Whether the driver keeps to all rules: then nothing may be latched, and every chain comes back. */
  readonly honest: boolean;
  /** Feature bits 0 to 31 that the driver does without. */
  readonly refused: number;
  /** Ring memory: what the descriptor area, the driver area, the device area and the buffers hold, over and over. */
  readonly memory: Uint8Array;
  readonly calls: readonly FuzzCall[];
}

/** Where the addresses of buffers begin and how far they go, and what comes before them. */
export interface FuzzArea {
  readonly start: number;
  readonly length: number;
}

const QUEUE_SIZE = 32;
const INDIRECT_DESC = 2 ** 28;
const EVENT_IDX = 2 ** 29;
const FLUSH = 2 ** 9;

export function fuzzInput(seed: number, area: FuzzArea): FuzzInput {
  const random = new SeededRandom(seed);
  const memory = Uint8Array.from({ length: 256 }, () => (random.chance(0.6) ? 0 : random.u32() & 0xff));
  const calls: FuzzCall[] = [];
  // Most inputs get far, some are wild from the first call on.
  const harm = random.pick([0, 0.01, 0.01, 0.05, 0.3]);
  for (let count = 16 + random.below(64); count > 0; count--) calls.push(...someCalls(random, area, harm));
  // Now and then the disk holds on to all that it gets, so that more is offered than the queue holds.
  if (random.chance(0.1)) {
    const flood = calls.filter(({ call }) => call !== "disk" && call !== "serve" && call !== "reset");
    calls.splice(0, calls.length, { call: "disk", open: false, error: undefined }, ...flood, ...flood);
  }
  const refused = random.pick([0, 0, EVENT_IDX, INDIRECT_DESC, EVENT_IDX | INDIRECT_DESC, FLUSH]);
  return { seed, honest: harm === 0, refused, memory, calls };
}

/** @param harm how likely it is that a thing is wrong that need not be */
function someCalls(random: SeededRandom, area: FuzzArea, harm: number): FuzzCall[] {
  if (!random.chance(harm)) {
    const dice = random.below(100);
    if (dice < 70) return plausibleChain(random, area, harm);
    if (dice < 74) return [{ call: "disk", open: random.chance(0.6), error: random.pick(ERRORS) }];
    if (dice < 75) return [{ call: random.pick(["serve", "reset"]) }];
    return [{ call: random.pick(["kick", "poll", "poll", "poll", "collect", "resume"]) }];
  }
  const dice = random.below(100);
  if (dice < 40) return [{ call: "chain", place: random.below(QUEUE_SIZE), descriptors: anyDescriptors(random, area) }];
  if (dice < 55) return [{ call: "offer", head: random.chance(0.8) ? random.below(QUEUE_SIZE) : random.below(65_536) }];
  if (dice < 60) return [{ call: "index", value: random.below(65_536) }];
  if (dice < 85)
    return [{ call: "scribble", area: random.below(4), at: random.below(16_384), value: random.u32() & 0xff }];
  return [{ call: "register", offset: 4 * random.below(80), value: registerValue(random) }];
}

const ERRORS = [undefined, undefined, undefined, "EIO", "ENOSPC", "ENOTSUP"] as const;

function registerValue(random: SeededRandom): number {
  return random.chance(0.7) ? random.below(16) : random.u32();
}

/** A request that could be right, with one thing wrong now and then. */
function plausibleChain(random: SeededRandom, area: FuzzArea, harm: number): FuzzCall[] {
  const type = random.pick([0, 0, 1, 1, 4, 8, 11, 13, random.below(32)]);
  const at = 16 * random.below(64);
  const sector = random.chance(0.85) ? BigInt(random.below(2048)) : BigInt(random.u32()) << 32n;
  const write = type === 0 || type === 8 ? 2 : 0;
  const place = random.below(QUEUE_SIZE - 3);
  const id = random.chance(harm) ? random.below(65_536) : place;
  const link = (index: number, more: number): { flags: number; next: number; id: number } => ({
    flags: random.chance(harm / 3) ? random.below(65_536) : more,
    next: random.chance(harm / 3) ? random.below(65_536) : place + index + 1,
    id,
  });
  const length = type >= 11 ? 16 * (1 + random.below(3)) : 512 * random.below(9);
  const header = { address: BigInt(area.start + at), length: random.chance(harm) ? edgy(random) : 16, ...link(0, 1) };
  const data = {
    address: random.chance(harm) ? anyAddress(random, area) : BigInt(area.start + 4096),
    length: random.chance(harm) ? edgy(random) : length,
    ...link(1, 1 | write),
  };
  const status = { address: BigInt(area.start + 3000), length: 1, ...link(2, 2) };
  const descriptors = type === 4 ? [header, { ...status, ...link(1, 2) }] : [header, data, status];
  const chain: FuzzCall = { call: "chain", place, descriptors };
  return [{ call: "header", at, type, sector }, chain, ...(random.chance(0.5) ? [{ call: "poll" } as const] : [])];
}

function anyDescriptors(random: SeededRandom, area: FuzzArea): FuzzDescriptor[] {
  return Array.from({ length: 1 + random.below(8) }, () => ({
    address: anyAddress(random, area),
    length: edgy(random),
    flags: random.chance(0.8) ? random.below(8) : random.below(65_536),
    next: random.chance(0.9) ? random.below(QUEUE_SIZE) : random.below(65_536),
    id: random.chance(0.9) ? random.below(QUEUE_SIZE) : random.below(65_536),
  }));
}

/** A number as fuzzers like them: often small, often at an edge, sometimes anything. */
function edgy(random: SeededRandom): number {
  const edges = [0, 1, 15, 16, 17, 32, 48, 511, 512, 513, 4096, 65_535, 65_536, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1];
  if (random.chance(0.4)) return random.pick(edges);
  return random.chance(0.7) ? random.below(8192) : random.u32();
}

function anyAddress(random: SeededRandom, area: FuzzArea): bigint {
  if (random.chance(0.8)) return BigInt(area.start + random.below(area.length));
  if (random.chance(0.5)) return BigInt(random.below(area.start));
  return random.pick([0n, 2n ** 32n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 16n, 2n ** 64n - 2n]) + BigInt(random.below(2));
}
