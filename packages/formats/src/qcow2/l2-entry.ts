/**
 * Words of L1 and L2 tables and what their bits mean (qcow2 specification, "Cluster mapping"), as two halves each: 64-bit
 * arithmetic on every lookup would cost more than the lookup. entry-layout.ts reads and writes the entries of L2 tables.
 */
import { corrupt } from "./refcount.ts";

/** Bit 63: the cluster is referenced once and may be overwritten. */
export const COPIED_HIGH = 0x80000000;
/** Bit 62. */
export const COMPRESSED_HIGH = 0x40000000;
/** Bits 32 to 55 of the offset. */
export const OFFSET_HIGH_MASK = 0x00ffffff;
/** Bits 9 to 31. */
export const OFFSET_LOW_MASK = 0xfffffe00;
/** Bit 0: the cluster reads as zeros. */
export const ZERO_LOW = 1;

const WORD = 2 ** 32;

/** Where a compressed cluster stands. */
export interface CompressedPlace {
  readonly hostOffset: number;
  /** Bytes to read; the compressed data may end before. */
  readonly length: number;
}

/**
 * Decodes a compressed cluster's descriptor ("Compressed Clusters Descriptor").
 * @param at where the entry begins in its table, in bytes
 * @throws {BlockError} EIO when the entry cannot be true.
 */
export function readCompressedEntry(table: DataView, at: number, clusterBits: number): CompressedPlace {
  const place = decodeCompressedEntry(table, at, clusterBits);
  if (place.hostOffset > 2 ** 53 - 2 ** 22) throw corrupt(`a compressed cluster is said to stand at ${place.exact}`);
  return place;
}

/** The same for whatever an entry says; `exact` is the offset where a number cannot hold it. */
export function decodeCompressedEntry(
  table: DataView,
  at: number,
  clusterBits: number,
): CompressedPlace & { readonly exact: bigint } {
  const word = table.getBigUint64(at) & 0x3fffffffffffffffn;
  const sizeShift = BigInt(62 - (clusterBits - 8));
  const exact = word & ((1n << sizeShift) - 1n);
  const sectors = Number(word >> sizeShift) + 1;
  return { hostOffset: Number(exact), length: sectors * 512 - Number(exact % 512n), exact };
}

/** @param place data that ends where its last sector ends, or before */
export function writeCompressedEntry(table: DataView, at: number, clusterBits: number, place: CompressedPlace): void {
  const sizeShift = BigInt(62 - (clusterBits - 8));
  const firstSector = Math.floor(place.hostOffset / 512);
  const lastSector = Math.floor((place.hostOffset + place.length - 1) / 512);
  const sectors = BigInt(lastSector - firstSector);
  table.setBigUint64(at, (1n << 62n) | (sectors << sizeShift) | BigInt(place.hostOffset));
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
