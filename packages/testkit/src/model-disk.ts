/**
 * A disk as a plain array: what a driver, a node or an image must hold after requests that came one after another.
 * Requests that run side by side, and crashes, are the durability model's business.
 */
import { assert } from "@spindle/base";

export class ModelDisk {
  #bytes: Uint8Array;
  /** 1 where a discard leaves open whether zeros or the bytes from before are read. */
  #discarded: Uint8Array;

  /** @param content what the disk holds at first, or its length in bytes for zeros */
  constructor(content: Uint8Array | number) {
    this.#bytes = typeof content === "number" ? new Uint8Array(content) : content.slice();
    this.#discarded = new Uint8Array(this.#bytes.length);
  }

  get length(): number {
    return this.#bytes.length;
  }

  /** Goes beyond the end only where the disk may grow. */
  write(offset: number, bytes: Uint8Array): void {
    if (offset + bytes.length > this.length) this.truncate(offset + bytes.length);
    this.#bytes.set(bytes, offset);
    this.#discarded.fill(0, offset, offset + bytes.length);
  }

  writeZeroes(offset: number, length: number): void {
    if (offset + length > this.length) this.truncate(offset + length);
    this.#bytes.fill(0, offset, offset + length);
    this.#discarded.fill(0, offset, offset + length);
  }

  /** From now on zeros or the bytes from before are right, each byte for itself. */
  discard(offset: number, length: number): void {
    assert(offset + length <= this.length, "a discard beyond the model's end");
    this.#discarded.fill(1, offset, offset + length);
  }

  /** What is added reads as zeros. */
  truncate(length: number): void {
    const bytes = new Uint8Array(length);
    const discarded = new Uint8Array(length);
    bytes.set(this.#bytes.subarray(0, length));
    discarded.set(this.#discarded.subarray(0, length));
    this.#bytes = bytes;
    this.#discarded = discarded;
  }

  /** A copy of what must be read; where a discard leaves it open, the bytes from before. */
  read(offset: number, length: number): Uint8Array {
    return this.#bytes.slice(offset, offset + length);
  }

  /** What is wrong with bytes that were read, in words; undefined when they are right. */
  mismatch(offset: number, bytes: Uint8Array): string | undefined {
    if (offset + bytes.length > this.length) return `read ${bytes.length} bytes at ${offset} of ${this.length}`;
    if (Buffer.compare(bytes, this.#bytes.subarray(offset, offset + bytes.length)) === 0) return undefined;
    for (let index = 0; index < bytes.length; index++) {
      const found = bytes[index] as number;
      const expected = this.#bytes[offset + index] as number;
      if (found === expected || (found === 0 && this.#discarded[offset + index] === 1)) continue;
      const or = this.#discarded[offset + index] === 1 ? " or 0 (discarded)" : "";
      return `byte ${offset + index} is ${found}, and should be ${expected}${or}`;
    }
    return undefined;
  }

  /** @throws {Error} with the first byte that is wrong. */
  check(offset: number, bytes: Uint8Array): void {
    const mismatch = this.mismatch(offset, bytes);
    if (mismatch !== undefined) throw new Error(mismatch);
  }
}
