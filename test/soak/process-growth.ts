/** Whether this process grows: its memory and its open files, looked at whenever a round of work is over. */
import { readdirSync } from "node:fs";

interface Sample {
  readonly atMs: number;
  readonly residentMib: number;
  readonly openFiles: number;
}

export class ProcessGrowth {
  readonly #samples: Sample[] = [];

  sample(): void {
    this.#samples.push({
      atMs: performance.now(),
      residentMib: process.memoryUsage.rss() / 2 ** 20,
      openFiles: readdirSync("/proc/self/fd").length,
    });
  }

  get openFiles(): readonly number[] {
    return this.#samples.map(({ openFiles }) => openFiles);
  }

  /** The growth of the resident memory from the first third of the samples to the last, by their medians. */
  get residentMib(): number {
    const third = Math.max(1, Math.floor(this.#samples.length / 3));
    const resident = this.#samples.map(({ residentMib }) => residentMib);
    return median(resident.slice(-third)) - median(resident.slice(0, third));
  }

  describe(): string {
    const first = this.#samples[0];
    const last = this.#samples.at(-1);
    if (first === undefined || last === undefined) return "no samples";
    const hours = (last.atMs - first.atMs) / 3_600_000;
    const memory = `${first.residentMib.toFixed(0)} to ${last.residentMib.toFixed(0)} MiB`;
    const slope = hours > 0 ? ` (${(this.residentMib / hours).toFixed(1)} MiB an hour)` : "";
    return `memory ${memory}${slope}, open files ${first.openFiles} to ${last.openFiles}`;
  }
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? 0;
}
