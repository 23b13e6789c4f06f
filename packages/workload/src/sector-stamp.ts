/**
 * The stamp that fills a 512-byte sector: who wrote it, with which sequence number, and where. A sector that holds
 * another's stamp, an older one, or parts of two, is found by comparing its 128 words.
 */
import { assert, SECTOR_SIZE } from "@spindle/base";

export interface SectorStamp {
  /** The writer, 0 to 2^16 - 1. */
  readonly writer: number;
  /** The writer's own count of writes, 1 to 2^24 - 1. */
  readonly sequence: number;
  /** The sector's number on the disk. */
  readonly sectorIndex: number;
}

/** The writer of what stands in a base image before any guest has written. */
export const BASE_WRITER = 0xffff;

const WORDS_PER_SECTOR: number = SECTOR_SIZE / 4;
/** The stamp is this many words, repeated to the sector's end. */
const STAMP_WORDS = 8;
const MAGIC = 0x53504e44;

/** Sectors of a buffer as words. The buffer begins at a multiple of 4 bytes and is whole sectors long. */
export function sectorWords(bytes: Uint8Array): Uint32Array {
  assert(bytes.byteOffset % 4 === 0 && bytes.length % SECTOR_SIZE === 0, "a sector buffer is aligned and whole");
  return new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
}

/** Fills the sector that begins at word `at`. */
export function fillStamp(words: Uint32Array, at: number, stamp: SectorStamp): void {
  const { writer, sequence, sectorIndex } = stamp;
  const low = sectorIndex % 2 ** 32;
  words[at] = MAGIC;
  words[at + 1] = writer;
  words[at + 2] = sequence;
  words[at + 3] = low;
  words[at + 4] = Math.floor(sectorIndex / 2 ** 32);
  words[at + 5] = mix(writer, sequence, low);
  words[at + 6] = ~low;
  words[at + 7] = ~sequence;
  for (let word = at + STAMP_WORDS; word < at + WORDS_PER_SECTOR; word++)
    words[word] = words[word - STAMP_WORDS] as number;
}

const EXPECTED = new Uint32Array(WORDS_PER_SECTOR);

/** Whether the sector that begins at word `at` holds exactly this stamp. */
export function hasStamp(words: Uint32Array, at: number, stamp: SectorStamp): boolean {
  fillStamp(EXPECTED, 0, stamp);
  for (let word = 0; word < WORDS_PER_SECTOR; word++) if (words[at + word] !== EXPECTED[word]) return false;
  return true;
}

/** Whether the sector that begins at word `at` is all zeros. */
export function isZeroSector(words: Uint32Array, at: number): boolean {
  for (let word = at; word < at + WORDS_PER_SECTOR; word++) if (words[word] !== 0) return false;
  return true;
}

/** What a sector holds, in words for a report. */
export function describeSector(words: Uint32Array, at: number): string {
  if (isZeroSector(words, at)) return "zeros";
  const stamp: SectorStamp = {
    writer: words[at + 1] as number,
    sequence: words[at + 2] as number,
    sectorIndex: (words[at + 4] as number) * 2 ** 32 + (words[at + 3] as number),
  };
  if (words[at] !== MAGIC) return `no stamp (first word 0x${(words[at] as number).toString(16)})`;
  const whole = hasStamp(words, at, stamp) ? "" : ", mixed with something else";
  const writer = stamp.writer === BASE_WRITER ? "base" : `guest ${stamp.writer}`;
  return `${writer}, write ${stamp.sequence}, sector ${stamp.sectorIndex}${whole}`;
}

function mix(writer: number, sequence: number, low: number): number {
  const first = Math.imul(writer ^ 0x9e3779b9, 0x85ebca6b) ^ sequence;
  return Math.imul(first ^ (first >>> 13), 0xc2b2ae35) ^ low;
}
