/**
 * The standard streams of the shell. On anything but a terminal, output is held back as the C library holds it: until there
 * is a block of it, until the shell asks for input, or the program ends. Errors are never held back, so that whoever puts
 * both streams into one file finds the lines in the order that qemu-io gives them; and after a crash the rest is missing.
 */
import { STDERR, STDOUT, standardOutput, writeWhole } from "../output.ts";

const BLOCK_BYTES = 4096;

export class IoOutput {
  readonly #isTerminal: boolean = standardOutput.isTTY;
  #held: Buffer = Buffer.alloc(0);

  print(text: string): void {
    this.#held = Buffer.concat([this.#held, Buffer.from(text)]);
    const whole = this.#isTerminal ? this.#held.length : this.#held.length - (this.#held.length % BLOCK_BYTES);
    if (this.#isTerminal || this.#held.length > BLOCK_BYTES) this.#write(whole);
  }

  flush(): void {
    this.#write(this.#held.length);
  }

  complain(text: string): void {
    writeWhole(STDERR, Buffer.from(text));
  }

  #write(length: number): void {
    const bytes = this.#held.subarray(0, length);
    this.#held = this.#held.subarray(length);
    writeWhole(STDOUT, bytes);
  }
}
