/** Ways to show the progress of a stream: a bar on a terminal, plain lines elsewhere, JSON for programs. */
import { formatSize } from "@spindle/base";
import type { StreamProgress } from "spindle";
import type { ProgressOutput } from "./output.ts";

/** How a stream ended. */
export interface StreamEnd {
  readonly outcome: "completed" | "cancelled" | "failed";
  readonly error?: string;
}

export interface ProgressDisplay {
  /** Called often. */
  progress(progress: StreamProgress): void;
  /** Called once, with what the last progress was. */
  result(progress: StreamProgress, end: StreamEnd): void;
}

export type DisplayKind = "none" | "people" | "json";

/** Plain lines come this often. */
const LINE_INTERVAL_SECONDS = 1;
const BAR_WIDTH = 32;

export function progressDisplay(kind: DisplayKind, output: ProgressOutput): ProgressDisplay {
  if (kind === "json") return new JsonDisplay(output);
  if (kind === "none") return { progress: () => {}, result: () => {} };
  return output.isTTY ? new BarDisplay(output) : new LineDisplay(output);
}

/** One object a line. */
class JsonDisplay implements ProgressDisplay {
  readonly #output: ProgressOutput;

  constructor(output: ProgressOutput) {
    this.#output = output;
  }

  progress(progress: StreamProgress): void {
    this.#write({ type: "progress", ...rounded(progress) });
  }

  result(progress: StreamProgress, end: StreamEnd): void {
    this.#write({ type: "result", ...rounded(progress), ...end });
  }

  #write(line: object): void {
    this.#output.write(`${JSON.stringify(line)}\n`);
  }
}

function rounded({ transferred, size, elapsed, rate, eta }: StreamProgress) {
  const seconds = (value: number): number => Math.round(value * 1000) / 1000;
  return { transferred, size, elapsed: seconds(elapsed), rate, eta: eta === null ? null : seconds(eta) };
}

class LineDisplay implements ProgressDisplay {
  readonly #output: ProgressOutput;
  #shownAt = Number.NEGATIVE_INFINITY;

  constructor(output: ProgressOutput) {
    this.#output = output;
  }

  progress(progress: StreamProgress): void {
    if (progress.elapsed - this.#shownAt < LINE_INTERVAL_SECONDS) return;
    this.#shownAt = progress.elapsed;
    this.#output.write(`${describe(progress)}\n`);
  }

  result(progress: StreamProgress, end: StreamEnd): void {
    this.#output.write(`${conclude(progress, end)}\n`);
  }
}

class BarDisplay implements ProgressDisplay {
  readonly #output: ProgressOutput;

  constructor(output: ProgressOutput) {
    this.#output = output;
  }

  progress(progress: StreamProgress): void {
    const filled = Math.round(fraction(progress) * BAR_WIDTH);
    const bar = "#".repeat(filled) + ".".repeat(BAR_WIDTH - filled);
    // Erases the rest of a longer line that stood there.
    this.#output.write(`\r[${bar}] ${describe(progress)}\x1b[K`);
  }

  result(progress: StreamProgress, end: StreamEnd): void {
    this.#output.write(`\r${conclude(progress, end)}\x1b[K\n`);
  }
}

function fraction({ transferred, size }: StreamProgress): number {
  return size === 0 ? 0 : transferred / size;
}

function describe(progress: StreamProgress): string {
  const { transferred, size, rate, eta } = progress;
  const percent = (fraction(progress) * 100).toFixed(1);
  const left = eta === null ? "-:--" : clock(eta);
  return `${percent}%  ${formatSize(transferred)} of ${formatSize(size)}  ${formatSize(rate)}/s  eta ${left}`;
}

function conclude({ transferred, size, elapsed }: StreamProgress, { outcome }: StreamEnd): string {
  const average = formatSize(elapsed === 0 ? 0 : transferred / elapsed);
  const done = outcome === "completed" ? formatSize(size) : `${formatSize(transferred)} of ${formatSize(size)}`;
  return `${outcome}: ${done} in ${elapsed.toFixed(1)} s, ${average}/s`;
}

/** Minutes and seconds, with hours when there are any. */
function clock(seconds: number): string {
  const whole = Math.ceil(seconds);
  const two = (value: number): string => String(value).padStart(2, "0");
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor(whole / 60) % 60;
  return hours > 0 ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}
