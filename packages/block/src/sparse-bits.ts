/**
 * A long row of bits, of which most are alike: only pages that hold both kinds take memory. Bits are numbered from the
 * lowest of the first byte on, as qcow2 stores them.
 */

const PAGE_BYTES = 4096;
const PAGE_BITS: number = PAGE_BYTES * 8;

/** Stands for every page whose bits are all set; never written to. */
const FULL: Uint8Array = new Uint8Array(PAGE_BYTES).fill(0xff);

export class SparseBits {
  /** Pages with a set bit, by number. */
  readonly #pages: Map<number, Uint8Array> = new Map();

  get isEmpty(): boolean {
    return this.#pages.size === 0;
  }

  /** Sets the bits from `first` up to, but not including, `end`. */
  set(first: number, end: number): void {
    forEachPage(first, end, (index, from, to) => {
      if (to - from === PAGE_BITS) this.#pages.set(index, FULL);
      else if (this.#pages.get(index) !== FULL) fillBits(this.#writable(index), from, to);
    });
  }

  /** Clears all bits from `end` on. */
  truncate(end: number): void {
    const last = Math.floor(end / PAGE_BITS);
    for (const index of [...this.#pages.keys()]) if (index > last) this.#pages.delete(index);
    if (!this.#pages.has(last)) return;
    const page = this.#writable(last);
    const inPage = end - last * PAGE_BITS;
    page.fill(0, Math.ceil(inPage / 8));
    if (inPage % 8 !== 0) page[inPage >> 3] = (page[inPage >> 3] as number) & ((1 << (inPage % 8)) - 1);
    if (page.every((byte) => byte === 0)) this.#pages.delete(last);
  }

  /** Whether all bits of the range are set. */
  covers(first: number, end: number): boolean {
    for (let bit = first; bit < end; ) {
      const index = Math.floor(bit / PAGE_BITS);
      const page = this.#pages.get(index);
      if (page === undefined) return false;
      const pageEnd = Math.min(end, (index + 1) * PAGE_BITS);
      for (; page !== FULL && bit < pageEnd; bit++) if (!testBit(page, bit - index * PAGE_BITS)) return false;
      bit = pageEnd;
    }
    return true;
  }

  /** How many bits are set. */
  count(): number {
    let count = 0;
    for (const page of this.#pages.values()) for (let byte of page) for (; byte !== 0; byte &= byte - 1) count += 1;
    return count;
  }

  /** The runs of set bits, in order; neighbours may come apart. */
  *runs(): Generator<{ readonly first: number; readonly end: number }, void, void> {
    for (const index of [...this.#pages.keys()].sort((one, other) => one - other)) {
      const page = this.#pages.get(index) as Uint8Array;
      const start = index * PAGE_BITS;
      if (page === FULL) {
        yield { first: start, end: start + PAGE_BITS };
        continue;
      }
      for (let bit = 0; bit < PAGE_BITS; bit++) {
        if (!testBit(page, bit)) continue;
        const first = bit;
        while (bit < PAGE_BITS && testBit(page, bit)) bit += 1;
        yield { first: start + first, end: start + bit };
      }
    }
  }

  /** Sets the bits that are set in `bytes`, whose first byte holds the eight bits from `8 * byteOffset` on. */
  addBytes(byteOffset: number, bytes: Uint8Array): void {
    forEachPage(byteOffset * 8, (byteOffset + bytes.length) * 8, (index, from, to) => {
      const start = index * PAGE_BYTES + from / 8 - byteOffset;
      const part = bytes.subarray(start, start + (to - from) / 8);
      if (this.#pages.get(index) === FULL || part.every((byte) => byte === 0)) return;
      const page = this.#writable(index);
      for (let at = 0; at < part.length; at++)
        page[from / 8 + at] = (page[from / 8 + at] as number) | (part[at] as number);
    });
  }

  /** Copies the bits out, and tells whether one of them is set. */
  readBytes(byteOffset: number, bytes: Uint8Array): boolean {
    let some = false;
    bytes.fill(0);
    forEachPage(byteOffset * 8, (byteOffset + bytes.length) * 8, (index, from, to) => {
      const page = this.#pages.get(index)?.subarray(from / 8, to / 8);
      if (page === undefined) return;
      bytes.set(page, index * PAGE_BYTES + from / 8 - byteOffset);
      some ||= page.some((byte) => byte !== 0);
    });
    return some;
  }

  #writable(index: number): Uint8Array {
    let page = this.#pages.get(index);
    if (page === undefined || page === FULL) {
      page = page === undefined ? new Uint8Array(PAGE_BYTES) : FULL.slice();
      this.#pages.set(index, page);
    }
    return page;
  }
}

/** Calls back for each page of a range, with the bits of the range inside of it. */
function forEachPage(first: number, end: number, visit: (index: number, from: number, to: number) => void): void {
  for (let index = Math.floor(first / PAGE_BITS); index * PAGE_BITS < end; index++) {
    const start = index * PAGE_BITS;
    visit(index, Math.max(first - start, 0), Math.min(end - start, PAGE_BITS));
  }
}

function testBit(page: Uint8Array, bit: number): boolean {
  return ((page[bit >> 3] as number) & (1 << (bit & 7))) !== 0;
}

function fillBits(page: Uint8Array, from: number, to: number): void {
  let bit = from;
  for (; bit < to && bit % 8 !== 0; bit++) page[bit >> 3] = (page[bit >> 3] as number) | (1 << (bit & 7));
  const wholeEnd = to - (to % 8);
  if (wholeEnd > bit) {
    page.fill(0xff, bit >> 3, wholeEnd >> 3);
    bit = wholeEnd;
  }
  for (; bit < to; bit++) page[bit >> 3] = (page[bit >> 3] as number) | (1 << (bit & 7));
}
