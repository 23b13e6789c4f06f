/** Guest memory that notes each word that is written through windows, in order. Views of data are not words. */
import { GuestMemory, GuestWindow } from "../src/guest-memory.ts";

export interface RecordedStore {
  readonly address: number;
  readonly length: number;
  readonly value: number;
}

export class RecordingMemory extends GuestMemory {
  readonly stores: RecordedStore[] = [];

  override window(address: number, length: number): GuestWindow | undefined {
    const inner = super.window(address, length);
    return (
      inner &&
      new RecordingWindow(inner, (offset, bytes, value) => {
        this.stores.push({ address: address + offset, length: bytes, value });
      })
    );
  }

  /** Places in the record of the stores that touch a range. */
  placesOf(address: number, length: number): number[] {
    return this.stores.flatMap((store, place) =>
      store.address < address + length && store.address + store.length > address ? [place] : [],
    );
  }
}

class RecordingWindow extends GuestWindow {
  readonly #inner: GuestWindow;
  readonly #note: (offset: number, bytes: number, value: number) => void;

  constructor(inner: GuestWindow, note: (offset: number, bytes: number, value: number) => void) {
    super(undefined as never, 0);
    this.#inner = inner;
    this.#note = note;
  }

  override u8(offset: number): number {
    return this.#inner.u8(offset);
  }
  override u16(offset: number): number {
    return this.#inner.u16(offset);
  }
  override u32(offset: number): number {
    return this.#inner.u32(offset);
  }
  override loadU16(offset: number): number {
    return this.#inner.loadU16(offset);
  }
  override loadU32(offset: number): number {
    return this.#inner.loadU32(offset);
  }
  override setU8(offset: number, value: number): void {
    this.#note(offset, 1, value);
    this.#inner.setU8(offset, value);
  }
  override setU16(offset: number, value: number): void {
    this.#note(offset, 2, value);
    this.#inner.setU16(offset, value);
  }
  override setU32(offset: number, value: number): void {
    this.#note(offset, 4, value);
    this.#inner.setU32(offset, value);
  }
  override storeU16(offset: number, value: number): void {
    this.#note(offset, 2, value);
    this.#inner.storeU16(offset, value);
  }
  override storeU32(offset: number, value: number): void {
    this.#note(offset, 4, value);
    this.#inner.storeU32(offset, value);
  }
}
