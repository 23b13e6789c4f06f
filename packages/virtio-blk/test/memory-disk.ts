/** A disk in memory, shared by all threads that are given its buffer. It can be made to wait, and to fail. */
import { BlockError, type Co, type ErrnoName, until } from "@spindle/base";
import type { IoVector, WriteFlags } from "@spindle/block";
import type { Disk } from "../src/disk.ts";

export class MemoryDisk implements Disk {
  readonly bytes: Uint8Array;
  readOnly = false;
  /** While false, requests wait. Whoever sets it rings the thread. */
  open = true;
  /** What the next requests fail with. */
  error: ErrnoName | undefined;
  /** What was asked, in order. */
  readonly log: string[] = [];

  constructor(memory: number | SharedArrayBuffer) {
    this.bytes = new Uint8Array(typeof memory === "number" ? new SharedArrayBuffer(memory) : memory);
  }

  get length(): number {
    return this.bytes.length;
  }

  *read(offset: number, vector: IoVector): Co<void> {
    yield* this.#begin(`read ${offset} ${vector.length}`);
    vector.copyFrom(this.bytes.subarray(offset));
  }

  *write(offset: number, vector: IoVector, flags: WriteFlags = {}): Co<void> {
    yield* this.#begin(`write ${offset} ${vector.length}${flags.fua === true ? " fua" : ""}`);
    vector.copyTo(this.bytes.subarray(offset));
  }

  *writeZeroes(offset: number, length: number, flags: WriteFlags = {}): Co<void> {
    const words = `${flags.mayUnmap === true ? " unmap" : ""}${flags.fua === true ? " fua" : ""}`;
    yield* this.#begin(`zero ${offset} ${length}${words}`);
    this.bytes.fill(0, offset, offset + length);
  }

  *discard(offset: number, length: number): Co<void> {
    yield* this.#begin(`discard ${offset} ${length}`);
  }

  *flush(): Co<void> {
    yield* this.#begin("flush");
  }

  *#begin(what: string): Co<void> {
    if (this.log.length < 10_000) this.log.push(what);
    yield* until(() => this.open);
    if (this.error !== undefined) throw new BlockError(this.error, `the disk was told to fail with ${this.error}`);
  }
}
