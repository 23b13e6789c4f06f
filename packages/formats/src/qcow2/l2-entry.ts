/**
 * Entries of L1 and L2 tables (qcow2 specification, "Cluster mapping"), as two words each: 64-bit arithmetic on every
 * lookup would cost more than the lookup.
 */
import type { Mapping } from "@spindle/block";
import { corrupt } from "./refcount.ts";

/** Bit 63: the cluster is referenced once and may be overwritten. */
export const COPIED_HIGH = 0x80000000;
/** Bit 62. */
export const COMPRESSED_HIGH = 0x40000000;
/** Bits 32 to 55 of the offset. */
export const OFFSET_HIGH_MASK = 0x00ffffff;
/** Bits 9 to 31. */
export const OFFSET_LOW_MASK = 0xfffffe00;
const ZERO_LOW = 1;

const WORD = 2 ** 32;

export interface Entry {
  readonly kind: Mapping["kind"];
  /** For data, and for zeros that keep their cluster; 0 otherwise. Bytes. */
  readonly hostOffset: number;
  readonly copied: boolean;
}

/**
 * @param version zero clusters exist from version 3 on
 * @throws {BlockError} EIO when the entry cannot be true.
 */
export function readEntry(table: DataView, index: number, clusterSize: number, version: number): Entry {
  const high = table.getUint32(index * 8);
  const low = table.getUint32(index * 8 + 4);
  const copied = high >= COPIED_HIGH;
  if ((high & COMPRESSED_HIGH) !== 0) return { kind: "compressed", hostOffset: 0, copied: false };
  const hostOffset = (high & OFFSET_HIGH_MASK) * WORD + ((low & OFFSET_LOW_MASK) >>> 0);
  const zero = version >= 3 && (low & ZERO_LOW) !== 0;
  if (hostOffset % clusterSize !== 0 || hostOffset > Number.MAX_SAFE_INTEGER - clusterSize)
    throw corrupt(`a cluster is said to stand at ${hostOffset}`);
  if (zero) return { kind: "zero", hostOffset, copied };
  return { kind: hostOffset === 0 ? "unallocated" : "data", hostOffset, copied };
}

/**
 * How many entries, from `index` on and up to `limit`, are one run: of one kind, contiguous where they have clusters,
 * and equally shared when they are data. The first one is known to be valid.
 */
export function runOfEntries(
  table: DataView,
  index: number,
  limit: number,
  clusterSize: number,
  version: number,
): number {
  const zeroLow = version >= 3 ? ZERO_LOW : 0;
  const high = table.getUint32(index * 8);
  const low = table.getUint32(index * 8 + 4);
  let highMask = COMPRESSED_HIGH;
  let lowMask = zeroLow;
  let step = 0;
  if ((high & COMPRESSED_HIGH) !== 0) lowMask = 0;
  else {
    const hasPlace = (high & OFFSET_HIGH_MASK) !== 0 || (low & OFFSET_LOW_MASK) !== 0;
    const isData = hasPlace && (low & zeroLow) === 0;
    step = hasPlace ? clusterSize : 0;
    highMask |= isData ? COPIED_HIGH | OFFSET_HIGH_MASK : OFFSET_HIGH_MASK;
    lowMask |= OFFSET_LOW_MASK;
  }
  let expectedHigh = high & highMask;
  let expectedLow = (low & lowMask) >>> 0;
  let count = 1;
  for (; count < limit; count++) {
    expectedLow += step;
    if (expectedLow >= WORD) {
      expectedLow -= WORD;
      expectedHigh += 1;
    }
    const at = (index + count) * 8;
    if ((table.getUint32(at) & highMask) !== expectedHigh) break;
    if ((table.getUint32(at + 4) & lowMask) >>> 0 !== expectedLow) break;
  }
  return count;
}

export function writeEntry(table: DataView, index: number, entry: Entry): void {
  const high = Math.floor(entry.hostOffset / WORD) + (entry.copied ? COPIED_HIGH : 0);
  const low = (entry.hostOffset % WORD) + (entry.kind === "zero" ? ZERO_LOW : 0);
  table.setUint32(index * 8, high);
  table.setUint32(index * 8 + 4, low);
}

/** Where a compressed cluster stands. */
export interface CompressedPlace {
  readonly hostOffset: number;
  /** Bytes to read; the compressed data may end before. */
  readonly length: number;
}

/**
 * Decodes a compressed cluster's descriptor ("Compressed Clusters Descriptor").
 * @throws {BlockError} EIO when the entry cannot be true.
 */
export function readCompressedEntry(table: DataView, index: number, clusterBits: number): CompressedPlace {
  const place = decodeCompressedEntry(table, index, clusterBits);
  if (place.hostOffset > 2 ** 53 - 2 ** 22) throw corrupt(`a compressed cluster is said to stand at ${place.exact}`);
  return place;
}

/** The same for whatever an entry says; `exact` is the offset where a number cannot hold it. */
export function decodeCompressedEntry(
  table: DataView,
  index: number,
  clusterBits: number,
): CompressedPlace & { readonly exact: bigint } {
  const word = table.getBigUint64(index * 8) & 0x3fffffffffffffffn;
  const sizeShift = BigInt(62 - (clusterBits - 8));
  const exact = word & ((1n << sizeShift) - 1n);
  const sectors = Number(word >> sizeShift) + 1;
  return { hostOffset: Number(exact), length: sectors * 512 - Number(exact % 512n), exact };
}

/** @param place data that ends where its last sector ends, or before */
export function writeCompressedEntry(
  table: DataView,
  index: number,
  clusterBits: number,
  place: CompressedPlace,
): void {
  const sizeShift = BigInt(62 - (clusterBits - 8));
  const firstSector = Math.floor(place.hostOffset / 512);
  const lastSector = Math.floor((place.hostOffset + place.length - 1) / 512);
  const sectors = BigInt(lastSector - firstSector);
  table.setBigUint64(index * 8, (1n << 62n) | (sectors << sizeShift) | BigInt(place.hostOffset));
}

/** An entry of an L1 table: where the L2 table stands, 0 for none, and whether it is referenced once. */
export interface L1Entry {
  readonly hostOffset: number;
  readonly copied: boolean;
}

/** @throws {BlockError} EIO when the entry cannot be true. */
export function readL1Entry(table: DataView, index: number, clusterSize: number): L1Entry {
  const high = table.getUint32(index * 8);
  const low = table.getUint32(index * 8 + 4);
  const hostOffset = (high & OFFSET_HIGH_MASK) * WORD + ((low & OFFSET_LOW_MASK) >>> 0);
  if (hostOffset % clusterSize !== 0 || hostOffset > Number.MAX_SAFE_INTEGER - clusterSize)
    throw corrupt(`L2 table ${index} is said to stand at ${hostOffset}`);
  return { hostOffset, copied: high >= COPIED_HIGH };
}

export function writeL1Entry(table: DataView, index: number, entry: L1Entry): void {
  table.setUint32(index * 8, Math.floor(entry.hostOffset / WORD) + (entry.copied ? COPIED_HIGH : 0));
  table.setUint32(index * 8 + 4, entry.hostOffset % WORD);
}
