/** A folder for a bench's images, and the bytes that fill them. */
import { randomFillSync } from "node:crypto";
import { closeSync, existsSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { KiB, MiB } from "@spindle/base";

export class Scratch implements Disposable {
  readonly folder: string;

  /** @param place in memory where the host has /dev/shm, or on a disk where /var/tmp is on one */
  constructor(place: "memory" | "disk" = "memory") {
    const folder = place === "memory" ? "/dev/shm" : "/var/tmp";
    this.folder = mkdtempSync(join(existsSync(folder) ? folder : tmpdir(), "spindle-bench-"));
  }

  path(name: string): string {
    return join(this.folder, name);
  }

  remove(...names: string[]): void {
    for (const name of names) rmSync(this.path(name), { force: true });
  }

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** Makes a file of bytes that no detection of zeros and no compression makes smaller. */
export function writeRandomFile(path: string, length: number): void {
  writeRandomRanges(path, length, [{ offset: 0, length }]);
}

/** Makes a sparse file of `length` bytes with random bytes in the ranges, and holes elsewhere. */
export function writeRandomRanges(
  path: string,
  length: number,
  ranges: readonly { readonly offset: number; readonly length: number }[],
): void {
  const block = randomFillSync(new Uint8Array(8 * MiB));
  const descriptor = openSync(path, "w");
  try {
    ftruncateSync(descriptor, length);
    for (const range of ranges)
      for (let done = 0; done < range.length; done += block.length) {
        stampPages(block, range.offset + done);
        writeSync(descriptor, block, 0, Math.min(block.length, range.length - done), range.offset + done);
      }
  } finally {
    closeSync(descriptor);
  }
}

/** Makes each page of the block differ from the same page of every other block. */
function stampPages(block: Uint8Array, offset: number): void {
  const view = new DataView(block.buffer);
  for (let page = 0; page < block.length; page += 4 * KiB) view.setFloat64(page, offset + page + 1);
}
