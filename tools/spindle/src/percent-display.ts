/** qemu-img's own way to show progress: one line, written again and again over itself. */
import type { ProgressOutput } from "./output.ts";
import type { ProgressDisplay } from "./progress-display.ts";

/** The line for a part that is done, 0 to 1. */
export function percentLine(done: number): string {
  return `    (${(done * 100).toFixed(2)}/100%)\r`;
}

export function percentDisplay(output: ProgressOutput): ProgressDisplay {
  output.write(percentLine(0));
  return {
    progress: ({ transferred, size }) => output.write(percentLine(size === 0 ? 1 : transferred / size)),
    result: (_progress, { outcome }) => output.write(outcome === "completed" ? `${percentLine(1)}\n` : "\n"),
  };
}

/** The same for those who tell their bytes. */
export function percentProgress(output: ProgressOutput): (done: number, size: number) => void {
  return (done, size) => output.write(percentLine(size === 0 ? 1 : done / size));
}
