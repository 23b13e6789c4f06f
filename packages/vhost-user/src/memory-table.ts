/**
 * The guest's memory as the front end shares it: files, mapped once for the process. Queue threads make their own views of
 * the mappings; nothing is unmapped before they have let go of them. Every number and every file is the front end's, and
 * is looked at before it is mapped: touching a page behind the end of a file would end the process.
 */
import { fstatSync, statfsSync } from "node:fs";
import { alignDown, alignUp, BlockError } from "@spindle/base";
import { sharingCalls } from "@spindle/host-node";
import type { MemoryRegion } from "./message.ts";

const PAGE_SIZE = 4096;
const HUGETLBFS_MAGIC = 0x958458f6;

/**
 * Pieces end at multiples of this many bytes of guest memory: a view has its limits, and no ring and no table of a guest
 * runs through such a boundary, because guests allocate them in aligned blocks.
 */
const PIECE_BYTES: number = 2 ** 31;

/** Mapped memory at a guest-physical address, for any thread of the process. */
export interface MemoryPiece {
  readonly guestBase: number;
  readonly address: number;
  readonly length: number;
}

interface Mapping {
  readonly region: MemoryRegion;
  readonly address: number;
  /** What `munmap` is told. */
  readonly mappedAddress: number;
  readonly mappedLength: number;
}

export class MemoryTable {
  readonly #mappings: readonly Mapping[];

  private constructor(mappings: readonly Mapping[]) {
    this.#mappings = mappings;
  }

  /**
   * Maps the regions. The descriptors, one for each, are closed in any case: a mapping needs its file no longer.
   * @throws {BlockError} EINVAL for what makes no sense, or what the files do not hold.
   */
  static map(regions: readonly MemoryRegion[], descriptors: readonly number[]): MemoryTable {
    const mappings: Mapping[] = [];
    try {
      if (regions.length !== descriptors.length)
        throw new BlockError("EINVAL", `${descriptors.length} files for ${regions.length} memory regions`);
      checkRegions(regions);
      regions.forEach((region, index) => {
        mappings.push(mapRegion(region, descriptors[index] as number));
      });
      return new MemoryTable(mappings);
    } catch (error) {
      unmapAll(mappings);
      throw error;
    } finally {
      for (const fd of descriptors) sharingCalls().close(fd);
    }
  }

  /** For the views of queue threads. */
  get pieces(): MemoryPiece[] {
    return this.#mappings.flatMap(({ region, address }) => {
      const pieces: MemoryPiece[] = [];
      const end = region.guestAddress + region.length;
      for (let start = region.guestAddress; start < end; ) {
        const next = Math.min(alignDown(start, PIECE_BYTES) + PIECE_BYTES, end);
        pieces.push({ guestBase: start, address: address + start - region.guestAddress, length: next - start });
        start = next;
      }
      return pieces;
    });
  }

  /** The guest-physical address for one of the front end's; undefined when it has shared nothing there. */
  guestAddressOf(userAddress: number): number | undefined {
    for (const { region } of this.#mappings)
      if (userAddress >= region.userAddress && userAddress < region.userAddress + region.length)
        return region.guestAddress + userAddress - region.userAddress;
    return undefined;
  }

  /** Two bytes of guest memory at an even address; undefined when there is none. */
  read16(guestAddress: number): number | undefined {
    for (const { region, address } of this.#mappings) {
      const offset = guestAddress - region.guestAddress;
      if (offset < 0 || offset + 2 > region.length) continue;
      return Atomics.load(new Uint16Array(sharingCalls().view(address + offset, 2)), 0);
    }
    return undefined;
  }

  /** No thread has a view of the memory any more. */
  unmap(): void {
    unmapAll(this.#mappings);
  }
}

function checkRegions(regions: readonly MemoryRegion[]): void {
  for (const { guestAddress, length, userAddress, fileOffset } of regions) {
    const numbers = [guestAddress, length, userAddress, fileOffset];
    if (length === 0 || numbers.some((value) => value % PAGE_SIZE !== 0))
      throw new BlockError("EINVAL", "a memory region is empty, or is not made of pages");
    if (numbers.some((value) => !Number.isSafeInteger(value + length)))
      throw new BlockError("EINVAL", "a memory region has no end");
  }
  for (const key of ["guestAddress", "userAddress"] as const) {
    const ordered = [...regions].sort((a, b) => a[key] - b[key]);
    ordered.forEach((region, index) => {
      const next = ordered[index + 1];
      if (next !== undefined && region[key] + region.length > next[key])
        throw new BlockError("EINVAL", "memory regions overlap");
    });
  }
}

function mapRegion(region: MemoryRegion, fd: number): Mapping {
  const stat = fstatSync(fd);
  if (!stat.isFile()) throw new BlockError("EINVAL", "guest memory is not shared as a file");
  if (region.fileOffset + region.length > stat.size)
    throw new BlockError("EINVAL", "a memory region reaches beyond the end of its file");
  const unit = mappingUnit(fd);
  const offset = alignDown(region.fileOffset, unit);
  const mappedLength = alignUp(region.fileOffset + region.length, unit) - offset;
  let mappedAddress: number;
  try {
    mappedAddress = sharingCalls().map(fd, offset, mappedLength);
  } catch (error) {
    throw new BlockError("EINVAL", `guest memory cannot be mapped: ${(error as Error).message}`, {}, error);
  }
  return { region, address: mappedAddress + region.fileOffset - offset, mappedAddress, mappedLength };
}

/** Files of huge pages are mapped in those. */
function mappingUnit(fd: number): number {
  const { type, bsize } = statfsSync(`/proc/self/fd/${fd}`);
  return type === HUGETLBFS_MAGIC ? bsize : PAGE_SIZE;
}

function unmapAll(mappings: readonly Mapping[]): void {
  for (const { mappedAddress, mappedLength } of mappings) sharingCalls().unmap(mappedAddress, mappedLength);
}
