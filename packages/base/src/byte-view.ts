/**
 * Numbers in byte buffers, in either byte order. A 64-bit field is checked as a bigint before it becomes a number:
 * values above 2^53 - 1 would silently change otherwise.
 */
import { BlockError } from "./errors.ts";

export class ByteView {
  readonly bytes: Uint8Array;
  readonly #view: DataView;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get length(): number {
    return this.bytes.length;
  }

  u8(offset: number): number {
    return this.#view.getUint8(offset);
  }
  u16be(offset: number): number {
    return this.#view.getUint16(offset, false);
  }
  u16le(offset: number): number {
    return this.#view.getUint16(offset, true);
  }
  u32be(offset: number): number {
    return this.#view.getUint32(offset, false);
  }
  u32le(offset: number): number {
    return this.#view.getUint32(offset, true);
  }
  bigU64be(offset: number): bigint {
    return this.#view.getBigUint64(offset, false);
  }
  bigU64le(offset: number): bigint {
    return this.#view.getBigUint64(offset, true);
  }
  /** @throws {BlockError} EINVAL when the field `name` is above 2^53 - 1. */
  u64be(offset: number, name: string): number {
    return safeU64(this.#view.getUint32(offset, false), this.#view.getUint32(offset + 4, false), name);
  }
  /** @throws {BlockError} EINVAL when the field `name` is above 2^53 - 1. */
  u64le(offset: number, name: string): number {
    return safeU64(this.#view.getUint32(offset + 4, true), this.#view.getUint32(offset, true), name);
  }

  setU8(offset: number, value: number): void {
    this.#view.setUint8(offset, value);
  }
  setU16be(offset: number, value: number): void {
    this.#view.setUint16(offset, value, false);
  }
  setU16le(offset: number, value: number): void {
    this.#view.setUint16(offset, value, true);
  }
  setU32be(offset: number, value: number): void {
    this.#view.setUint32(offset, value, false);
  }
  setU32le(offset: number, value: number): void {
    this.#view.setUint32(offset, value, true);
  }
  /** `value` is a whole number from 0 to 2^53 - 1. */
  setU64be(offset: number, value: number): void {
    this.#view.setUint32(offset, Math.floor(value / 2 ** 32), false);
    this.#view.setUint32(offset + 4, value % 2 ** 32, false);
  }
  /** `value` is a whole number from 0 to 2^53 - 1. */
  setU64le(offset: number, value: number): void {
    this.#view.setUint32(offset + 4, Math.floor(value / 2 ** 32), true);
    this.#view.setUint32(offset, value % 2 ** 32, true);
  }
  setBigU64be(offset: number, value: bigint): void {
    this.#view.setBigUint64(offset, value, false);
  }
  setBigU64le(offset: number, value: bigint): void {
    this.#view.setBigUint64(offset, value, true);
  }
}

function safeU64(high: number, low: number, name: string): number {
  if (high >= 2 ** 21) throw new BlockError("EINVAL", `${name} is above 2^53 - 1`);
  return high * 2 ** 32 + low;
}
