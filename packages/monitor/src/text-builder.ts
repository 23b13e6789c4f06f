/** Builds a long string from code units without an array entry for each of them. */

const UNITS = 4096;

export class TextBuilder {
  readonly #units: Uint16Array = new Uint16Array(UNITS);
  #used = 0;
  #text = "";

  /** Appends a character. */
  add(point: number): void {
    if (point > 0xffff) {
      this.#unit(0xd800 + Math.floor((point - 0x10000) / 0x400));
      this.#unit(0xdc00 + ((point - 0x10000) % 0x400));
    } else this.#unit(point);
  }

  /** The string so far. */
  text(): string {
    this.#flush();
    return this.#text;
  }

  #unit(unit: number): void {
    if (this.#used === UNITS) this.#flush();
    this.#units[this.#used++] = unit;
  }

  #flush(): void {
    this.#text += String.fromCharCode(...this.#units.subarray(0, this.#used));
    this.#used = 0;
  }
}
