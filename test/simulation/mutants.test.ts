/** A check that cannot fail is a defect: each of these mistakes must be noticed within a few histories. */
import { describe, expect, it } from "vitest";
import { runHistory } from "./history.ts";
import { MUTANTS } from "./mutants.ts";

const HISTORIES_MAX = 400;

/** The first history that notices. */
function firstToNotice(mutant: (typeof MUTANTS)[number]): { seed: number; how: string } | undefined {
  for (let seed = 1; seed <= HISTORIES_MAX; seed++) {
    try {
      runHistory(seed, { mutant, faults: false, ...mutant.histories });
    } catch (error) {
      return { seed, how: error instanceof Error ? error.message : String(error) };
    }
  }
  return undefined;
}

describe("the histories notice that", () => {
  it.each(MUTANTS.map((mutant) => [mutant.name, mutant] as const))("%s", (_name, mutant) => {
    const noticed = firstToNotice(mutant);
    expect(noticed, `not noticed in ${HISTORIES_MAX} histories`).toBeDefined();
    if (process.env["SPINDLE_VERBOSE"] !== undefined) console.log(mutant.name, noticed);
  });
});
