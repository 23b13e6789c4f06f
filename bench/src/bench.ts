/** What a bench is: a name, and a function that measures and hands back tables. */
import type { Table } from "./table.ts";

export type Scale = "full" | "quick" | "shape";

export interface BenchContext {
  /**
   * `full` for figures worth keeping, `quick` for a look at them, `shape` for the least work that still goes every way
   * once.
   */
  readonly scale: Scale;
  /** Tells the user what is being measured now. */
  progress(line: string): void;
}

export interface Bench {
  readonly name: string;
  readonly about: string;
  run(context: BenchContext): Promise<Table[]>;
}

/** Figures are those of the compiled packages, which `npm run bench` builds first; the shape needs no build. */
export function measuresBuild({ scale }: BenchContext): boolean {
  return scale !== "shape";
}

/** The value for the scale of this run. */
export function scaled<T>({ scale }: BenchContext, values: Readonly<Record<Scale, T>>): T {
  return values[scale];
}

/**
 * Measures in turn, round after round, so that what disturbs the machine for a while disturbs everybody.
 * @param contenders by name; each does its work once and returns the figure of that round
 * @returns the figures by name, one a round
 */
export async function inTurn<Name extends string>(
  rounds: number,
  contenders: Readonly<Partial<Record<Name, () => Promise<number>>>>,
): Promise<Record<Name, number[]>> {
  const names = Object.keys(contenders) as Name[];
  const samples = Object.fromEntries(names.map((name) => [name, [] as number[]])) as Record<Name, number[]>;
  for (let round = 0; round < rounds; round++)
    for (const name of names) {
      const contender = contenders[name];
      if (contender !== undefined) samples[name].push(await contender());
    }
  return samples;
}
