/**
 * A dirty bitmap: which parts of a disk have been written since somebody began to look. A node's writes mark it (node.ts)
 * while it is enabled. A format may keep it in the image between two openings (`persistent`).
 */
import type { Co } from "@spindle/base";
import { SparseBits } from "./sparse-bits.ts";

/** Bits that an image holds, and that were not needed in memory so far. */
export interface StoredBits {
  /** Sets in `bits` what is set in the image. */
  readInto(bits: SparseBits): Co<void>;
}

export interface DirtyBitmapOptions {
  readonly name: string;
  /** Bytes of the disk that one bit stands for: a power of two, at least 512. */
  readonly granularity: number;
  readonly enabled: boolean;
  readonly persistent: boolean;
  /** Another program has left it in use: nobody knows what it has missed. It can only be removed. */
  readonly inconsistent?: boolean;
  readonly stored?: StoredBits;
}

export class DirtyBitmap {
  readonly name: string;
  readonly granularity: number;
  readonly inconsistent: boolean;
  readonly persistent: boolean;
  /** Writes mark it. */
  enabled: boolean;
  #bits: SparseBits = new SparseBits();
  #stored: StoredBits | null;

  constructor(options: DirtyBitmapOptions) {
    this.name = options.name;
    this.granularity = options.granularity;
    this.enabled = options.enabled;
    this.persistent = options.persistent;
    this.inconsistent = options.inconsistent === true;
    this.#stored = options.stored ?? null;
  }

  /** Marks every part that the range of the disk touches. */
  mark(offset: number, length: number): void {
    this.#bits.set(Math.floor(offset / this.granularity), Math.ceil((offset + length) / this.granularity));
  }

  /** Whether the whole range is known to be marked; what the image holds is not looked at. */
  covers(offset: number, length: number): boolean {
    return this.#bits.covers(Math.floor(offset / this.granularity), Math.ceil((offset + length) / this.granularity));
  }

  clear(): void {
    this.#stored = null;
    this.#bits = new SparseBits();
  }

  /** All its bits. Nothing else changes the bitmap meanwhile, but writes may mark it. */
  *bits(): Co<SparseBits> {
    const stored = this.#stored;
    if (stored !== null) yield* stored.readInto(this.#bits);
    this.#stored = null;
    return this.#bits;
  }

  /** Bytes that its marks stand for; the last one may reach beyond the end of the disk. */
  *markedBytes(): Co<number> {
    return (yield* this.bits()).count() * this.granularity;
  }

  /** Forgets what is beyond the end of a disk of this length. */
  *truncate(diskLength: number): Co<void> {
    (yield* this.bits()).truncate(Math.ceil(diskLength / this.granularity));
  }

  /** Marks what another bitmap of a disk of the same length has marked. */
  *merge(source: DirtyBitmap): Co<void> {
    for (const { first, end } of (yield* source.bits()).runs())
      this.mark(first * source.granularity, (end - first) * source.granularity);
  }
}
