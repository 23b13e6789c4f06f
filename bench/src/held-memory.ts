/**
 * Memory that the machine really has. A hypervisor may take pages back as soon as whole blocks of them are free, and give
 * them again one fault at a time: then a bench in memory measures the hypervisor. This frees pages in pieces that never
 * grow together to such blocks, because one page of each stays in use; the files made next are put there.
 */
import { closeSync, openSync, writeSync } from "node:fs";
import { KiB, MiB } from "@spindle/base";
import { linuxCalls } from "@spindle/host-node";
import type { Scratch } from "./scratch.ts";

/** Half of the smallest block that is taken back as a rule, a huge page. */
const PIECE_BYTES = MiB;
const PAGE_BYTES = 4 * KiB;

const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;

/**
 * Makes `length` bytes of free memory that stays with this machine for as long as the scratch folder exists. Does nothing
 * where holes cannot be punched.
 */
export function holdMemory(scratch: Scratch, length: number): void {
  const calls = linuxCalls();
  if (calls === null) return;
  const descriptor = openSync(scratch.path("held-memory"), "w");
  try {
    const piece = new Uint8Array(PIECE_BYTES).fill(1);
    for (let offset = 0; offset < length; offset += PIECE_BYTES) writeSync(descriptor, piece, 0, PIECE_BYTES, offset);
    const mode = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE;
    for (let offset = 0; offset < length; offset += PIECE_BYTES)
      calls.fallocate.sync(descriptor, mode, offset + PAGE_BYTES, PIECE_BYTES - PAGE_BYTES);
  } finally {
    closeSync(descriptor);
  }
}
