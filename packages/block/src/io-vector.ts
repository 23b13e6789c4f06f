/**
 * The buffers of one request, in order: a guest's scattered pages, or one piece of memory. Drivers pass slices on
 * without copying.
 */
import { assert } from "@spindle/base";

export class IoVector {
  readonly buffers: readonly Uint8Array[];
  /** Bytes in all buffers together. */
  readonly length: number;

  constructor(buffers: readonly Uint8Array[]) {
    this.buffers = buffers;
    let length = 0;
    for (const buffer of buffers) length += buffer.length;
    this.length = length;
  }

  static of(buffer: Uint8Array): IoVector {
    return new IoVector([buffer]);
  }

  /** The same memory from `start`, `length` bytes long; no bytes are copied. */
  slice(start: number, length: number): IoVector {
    assert(start >= 0 && length >= 0 && start + length <= this.length, "slice outside of the vector");
    if (start === 0 && length === this.length) return this;
    const parts: Uint8Array[] = [];
    let skip = start;
    let left = length;
    for (const buffer of this.buffers) {
      if (left === 0) break;
      if (skip >= buffer.length) {
        skip -= buffer.length;
        continue;
      }
      const take = Math.min(buffer.length - skip, left);
      parts.push(buffer.subarray(skip, skip + take));
      skip = 0;
      left -= take;
    }
    return new IoVector(parts);
  }

  fill(value: number): void {
    for (const buffer of this.buffers) buffer.fill(value);
  }

  /** Copies all bytes out to `target`, which is at least as long. */
  copyTo(target: Uint8Array): void {
    let position = 0;
    for (const buffer of this.buffers) {
      target.set(buffer, position);
      position += buffer.length;
    }
  }

  /** Fills the vector from `source`, which is at least as long. */
  copyFrom(source: Uint8Array): void {
    let position = 0;
    for (const buffer of this.buffers) {
      buffer.set(source.subarray(position, position + buffer.length));
      position += buffer.length;
    }
  }

  /** One piece of memory with the vector's bytes: its only buffer, or a copy. */
  toBytes(): Uint8Array {
    const [first] = this.buffers;
    if (this.buffers.length === 1 && first !== undefined) return first;
    const bytes = new Uint8Array(this.length);
    this.copyTo(bytes);
    return bytes;
  }
}
