/** qemu-img's own way to show progress: one line, written again and again over itself. */
import type { ProgressDisplay } from "./progress-display.ts";

/** The line for a part that is done, 0 to 1. */
export function percentLine(done: number): string {
  return `    (${(done * 100).toFixed(2)}/100%)\r`;
}

export function percentDisplay(output: NodeJS.WritableStream): ProgressDisplay {
  output.write(percentLine(0));
  return {
    progress: ({ transferred, size }) => void output.write(percentLine(size === 0 ? 1 : transferred / size)),
    result: (_progress, { outcome }) => void output.write(outcome === "completed" ? `${percentLine(1)}\n` : "\n"),
  };
}

/** The same for those who tell their bytes. */
export function percentProgress(output: NodeJS.WritableStream): (done: number, size: number) => void {
  return (done, size) => void output.write(percentLine(size === 0 ? 1 : done / size));
}
