/** Builds a long string from code units without an array entry for each of them. */

/** Units that are turned into text at once: more arguments might not fit the stack. */
const UNITS_MAX = 4096;

export class TextBuilder {
  readonly #units: Uint16Array;
  #used = 0;
  #text = "";

  /** @param unitsMax how long the text may become, or an upper bound */
  constructor(unitsMax: number) {
    this.#units = new Uint16Array(Math.min(unitsMax, UNITS_MAX) + 1);
  }

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
    if (this.#used === this.#units.length) this.#flush();
    this.#units[this.#used++] = unit;
  }

  #flush(): void {
    this.#text += String.fromCharCode(...this.#units.subarray(0, this.#used));
    this.#used = 0;
  }
}
