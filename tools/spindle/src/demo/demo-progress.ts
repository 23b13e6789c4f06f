/** What the demo tells on its way: a bar on a terminal, plain lines elsewhere; nothing but errors with `--json`. */
import { formatSize } from "@spindle/base";
import { standardOutput } from "../output.ts";

const BAR_CELLS = 24;
/** Plain lines come this often at most. */
const LINE_MS = 1000;

export class DemoProgress {
  readonly #quiet: boolean;
  readonly #startMs: number;
  #streamStartMs = 0;
  #lastLineMs = 0;
  #open = false;

  constructor(quiet: boolean) {
    this.#quiet = quiet;
    this.#startMs = performance.now();
  }

  say(text: string): void {
    if (this.#quiet) return;
    this.#endLine();
    const seconds = ((performance.now() - this.#startMs) / 1000).toFixed(1);
    standardOutput.write(`[${seconds.padStart(5)} s] ${text}\n`);
  }

  /** Shows how far the stream is. */
  report(transferred: number, size: number): void {
    // A job that has only just begun does not know its size yet.
    if (this.#quiet || size === 0) return;
    const nowMs = performance.now();
    if (this.#streamStartMs === 0) this.#streamStartMs = nowMs;
    const seconds = (nowMs - this.#streamStartMs) / 1000;
    const rate = seconds > 0 ? transferred / seconds : 0;
    const eta = rate > 0 ? `${((size - transferred) / rate).toFixed(1)} s` : "?";
    const done = `${formatSize(transferred)} of ${formatSize(size)}, ${formatSize(rate)}/s, ETA ${eta}`;
    if (standardOutput.isTTY) {
      const cells = Math.round((transferred / size) * BAR_CELLS);
      standardOutput.write(`\r  stream [${"#".repeat(cells)}${".".repeat(BAR_CELLS - cells)}] ${done}\x1b[K`);
      this.#open = true;
    } else if (nowMs - this.#lastLineMs >= LINE_MS || transferred === size) {
      this.#lastLineMs = nowMs;
      this.say(`stream: ${done}`);
    }
  }

  /** Leaves the cursor at the start of a line. */
  end(): void {
    this.#endLine();
  }

  #endLine(): void {
    if (this.#open) standardOutput.write("\n");
    this.#open = false;
  }
}
