/** What one check has found so far. */
import type { CheckResult, Repair } from "@spindle/block";

export class CheckTally {
  readonly repair: Repair;
  /** Takes one line of what is wrong, or was repaired. */
  readonly say: (line: string) => void;
  checkErrors = 0;
  corruptions = 0;
  leaks = 0;
  corruptionsFixed = 0;
  leaksFixed = 0;
  totalClusters = 0;
  allocatedClusters = 0;
  fragmentedClusters = 0;
  compressedClusters = 0;
  imageEndOffset = 0;

  constructor(repair: Repair, say: (line: string) => void) {
    this.repair = repair;
    this.say = say;
  }

  /** The first word of a line about something that is mended when it may be. */
  get verb(): "Repairing" | "ERROR" {
    return this.repairsErrors ? "Repairing" : "ERROR";
  }

  get repairsErrors(): boolean {
    return this.repair === "all";
  }

  get repairsLeaks(): boolean {
    return this.repair !== "none";
  }

  /** The tables are walked once more: what the first walk has counted does not count. */
  startAgain(): void {
    this.corruptions = 0;
    this.leaks = 0;
    this.allocatedClusters = 0;
    this.fragmentedClusters = 0;
    this.compressedClusters = 0;
  }

  result(): CheckResult {
    const { repair: _repair, say: _say, ...result } = { ...this };
    return result;
  }
}
