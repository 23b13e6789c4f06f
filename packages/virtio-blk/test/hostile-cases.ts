/**
 * Chains that a guest which means harm could offer, for split and packed rings alike, and what the specification and
 * docs/virtio-blk.md say must become of each: a model of its own, which shares no code with the device.
 */

/** One buffer of a chain. */
export interface HostileBuffer {
  readonly address: bigint;
  readonly length: number;
  readonly write?: boolean;
}

export interface HostileChain {
  readonly name: string;
  readonly type: number;
  readonly sector?: bigint;
  readonly buffers: readonly HostileBuffer[];
}

/** What must happen: a status in the used ring, or the queue left alone for good. */
export type Outcome = { readonly status: number } | "latched";

/** The memory in which the cases stand: two regions that touch, a hole, and one more. */
export interface CaseMemory {
  readonly regions: readonly { readonly start: bigint; readonly end: bigint }[];
  /** Where a header stands, a status byte, and room for data: all in memory. */
  readonly header: bigint;
  readonly status: bigint;
  readonly data: bigint;
  /** The border between the regions that touch, and the beginning and the end of the hole. */
  readonly border: bigint;
  readonly holeStart: bigint;
  readonly holeEnd: bigint;
  readonly end: bigint;
}

const OK = 0;
const IOERR = 1;
const UNSUPP = 2;
const SECTOR = 512;

/** Addresses that are no memory, or only in part when something is longer than a byte. */
function badAddresses(memory: CaseMemory): readonly (readonly [string, bigint])[] {
  return [
    ["at the beginning of the hole", memory.holeStart],
    ["in the hole", memory.holeStart + 4096n],
    ["just before the hole", memory.holeStart - 8n],
    ["one byte before the hole", memory.holeStart - 1n],
    ["just before the hole's end", memory.holeEnd - 8n],
    ["at the end of memory", memory.end],
    ["just before the end of memory", memory.end - 8n],
    ["beyond memory", memory.end + 4096n],
    ["at 2^32", 2n ** 32n],
    ["at 2^45", 2n ** 45n],
    ["below 2^53", 2n ** 53n - 1n],
    ["at 2^53", 2n ** 53n],
    ["at 2^63", 2n ** 63n],
    ["just before 2^64", 2n ** 64n - 8n],
    ["at 2^64 - 1", 2n ** 64n - 1n],
  ];
}

const LENGTHS = [
  0,
  1,
  2,
  15,
  16,
  17,
  511,
  512,
  513,
  1024,
  4096,
  65_535,
  2 ** 31 - 1,
  2 ** 31,
  2 ** 32 - 512,
  2 ** 32 - 1,
];

export function hostileChains(memory: CaseMemory): HostileChain[] {
  const header = { address: memory.header, length: 16 };
  const status = { address: memory.status, length: 1, write: true };
  const data = (address: bigint, length = SECTOR, write = true): HostileBuffer => ({ address, length, write });
  const chains: HostileChain[] = [];
  const add = (name: string, buffers: readonly HostileBuffer[], type = 0, sector = 0n): void => {
    chains.push({ name, type, sector, buffers });
  };
  for (const [where, address] of badAddresses(memory)) {
    add(`a header ${where}`, [{ address, length: 16 }, data(memory.data), status]);
    add(`data to read into ${where}`, [header, data(address), status]);
    add(`data to write ${where}`, [header, data(address, SECTOR, false), status], 1);
    add(`a status ${where}`, [header, data(memory.data), { address, length: 1, write: true }]);
    add(`data and status in one ${where}`, [header, data(address, SECTOR + 1)]);
  }
  for (const length of LENGTHS) {
    add(`a header of ${length} bytes`, [{ address: memory.header, length }, data(memory.data), status]);
    add(`a header of ${length} bytes and nothing else`, [{ address: memory.header, length }, status]);
    add(`${length} bytes to read`, [header, data(memory.data, length), status]);
    add(`${length} bytes to write`, [header, data(memory.data, length, false), status], 1);
    add(`a status of ${length} bytes`, [header, { ...status, length }]);
    add(`a discard of ${length} bytes`, [header, data(memory.data, length, false), status], 11);
    add(`zeroes of ${length} bytes`, [header, data(memory.data, length, false), status], 13);
  }
  const pieces = Array.from({ length: 16 }, (_, index) => ({ address: memory.header + BigInt(index), length: 1 }));
  add("a header alone", [header]);
  add("a status alone", [status]);
  add("a header that is writable", [{ ...header, write: true }, status]);
  add("a status that is readable", [header, { ...status, write: false }]);
  add("everything readable", [header, data(memory.data, SECTOR, false), { ...status, write: false }]);
  add("everything writable", [{ ...header, write: true }, data(memory.data), status]);
  add("a readable buffer behind a writable one", [header, data(memory.data), header, status]);
  add("a readable buffer behind the status", [header, status, header]);
  add("a header in eight pieces of two bytes", [
    ...Array.from({ length: 8 }, (_, index) => ({ address: memory.header + 2n * BigInt(index), length: 2 })),
    data(memory.data),
    status,
  ]);
  add("a header whose last byte is missing", [
    ...pieces.slice(0, 8),
    { address: memory.header + 8n, length: 7 },
    status,
  ]);
  add("empty buffers everywhere", [{ ...header, length: 0 }, header, data(0n, 0), status, { ...status, length: 0 }]);
  add("nothing but empty buffers", [
    { ...header, length: 0 },
    { ...status, length: 0 },
  ]);
  add("an empty buffer that is no memory", [header, data(2n ** 60n, 0), status]);
  add("more than 4 GiB in three buffers", [header, data(0n, 2 ** 32 - 1), data(0n, 2 ** 32 - 1), status]);
  add("4 GiB and a byte", [header, data(0n, 2 ** 32 - 16), status]);
  for (const [name, address] of [
    ["over the border", memory.border - 200n],
    ["up to the border", memory.border - 512n],
    ["from the border on", memory.border],
    ["into the hole", memory.holeStart - 200n],
    ["over the hole", memory.holeStart - 512n],
    ["up to the hole", memory.holeStart - 512n],
    ["from the hole's end on", memory.holeEnd],
  ] as const) {
    const length = name === "over the hole" ? Number(memory.holeEnd - memory.holeStart) + 1024 : SECTOR;
    add(`reading ${name}`, [header, data(address, length), status]);
    add(`writing ${name}`, [header, data(address, length, false), status], 1);
    add(`a status in the byte ${name}`, [
      header,
      data(memory.data),
      { address: address + 511n, length: 1, write: true },
    ]);
  }
  for (const sector of [
    2047n,
    2048n,
    2049n,
    2n ** 31n,
    2n ** 32n,
    2n ** 44n,
    2n ** 53n,
    2n ** 55n,
    2n ** 63n,
    2n ** 64n - 1n,
  ]) {
    add(`reading at sector ${sector}`, [header, data(memory.data), status], 0, sector);
    add(`writing at sector ${sector}`, [header, data(memory.data, SECTOR, false), status], 1, sector);
    add(`reading two at sector ${sector}`, [header, data(memory.data, 2 * SECTOR), status], 0, sector);
  }
  for (let type = 0; type < 34; type++) {
    add(`type ${type} without data`, [header, status], type);
    add(`type ${type} with a byte of data`, [header, data(memory.data, 1, false), status], type);
  }
  for (const type of [0x7fff_ffff, 0x8000_0000, 0xffff_ffff]) add(`type ${type}`, [header, status], type);
  return chains;
}

/**
 * What must become of a chain. The data buffers hold zeros, so a discard is of segments of no sectors.
 * @param sectors of the disk
 */
export function expectedOutcome(chain: HostileChain, memory: CaseMemory, sectors: bigint): Outcome {
  const buffers = chain.buffers.filter(({ length }) => length > 0);
  const total = buffers.reduce((sum, { length }) => sum + length, 0);
  const firstWritable = buffers.findIndex(({ write }) => write === true);
  if (firstWritable >= 0 && buffers.slice(firstWritable).some(({ write }) => write !== true)) return "latched";
  if (total > 2 ** 32) return "latched";
  const readable = buffers.filter(({ write }) => write !== true);
  const writable = buffers.filter(({ write }) => write === true);
  const last = writable.at(-1);
  if (last === undefined || !isMemory(memory, last.address + BigInt(last.length) - 1n, 1)) return "latched";
  const readableLength = readable.reduce((sum, { length }) => sum + length, 0);
  if (readableLength < 16 || !cut(readable, 0, 16).every(({ address, length }) => isMemory(memory, address, length)))
    return { status: IOERR };
  const type = chain.type % 2 ** 31;
  const writableLength = writable.reduce((sum, { length }) => sum + length, 0);
  if (type === 0 || type === 1) {
    const [parts, length] =
      type === 0
        ? [cut(writable, 0, writableLength - 1), writableLength - 1]
        : [cut(readable, 16, readableLength - 16), readableLength - 16];
    if (!parts.every((part) => isMemory(memory, part.address, part.length))) return { status: IOERR };
    const sector = chain.sector ?? 0n;
    const inside = length % SECTOR === 0 && sector * 512n + BigInt(length) <= sectors * 512n;
    return { status: inside ? OK : IOERR };
  }
  if (type === 11 || type === 13) return segmentsOutcome(readableLength - 16);
  return { status: type === 4 || type === 5 || type === 8 ? OK : UNSUPP };
}

function segmentsOutcome(length: number): Outcome {
  if (length / 16 > 256) return { status: UNSUPP };
  return { status: length > 0 && length % 16 === 0 ? OK : IOERR };
}

/** `length` bytes of buffers from `skip` on. */
function cut(buffers: readonly HostileBuffer[], skip: number, length: number): HostileBuffer[] {
  const parts: HostileBuffer[] = [];
  let before = skip;
  let left = length;
  for (const buffer of buffers) {
    const from = Math.min(before, buffer.length);
    const take = Math.min(buffer.length - from, left);
    before -= from;
    left -= take;
    if (take > 0) parts.push({ address: buffer.address + BigInt(from), length: take });
  }
  return parts;
}

function isMemory(memory: CaseMemory, address: bigint, length: number): boolean {
  let at = address;
  const end = address + BigInt(length);
  while (at < end) {
    const region = memory.regions.find(({ start, end: regionEnd }) => at >= start && at < regionEnd);
    if (region === undefined) return false;
    at = region.end;
  }
  return true;
}
