/** Several samples of one figure, as one value with its spread. */

export interface Summary {
  readonly median: number;
  readonly low: number;
  readonly high: number;
}

/** The median of the samples, and the smallest and the largest of them; undefined when there is none. */
export function summarize(samples: readonly number[]): Summary | undefined {
  const sorted = samples.toSorted((left, right) => left - right);
  const low = sorted[0];
  const high = sorted.at(-1);
  if (low === undefined || high === undefined) return undefined;
  return { median: quantile(sorted, 0.5), low, high };
}

/**
 * The value below which a share of the samples lies, interpolated between neighbours.
 * @param sorted ascending, at least one
 * @param fraction 0 to 1
 */
export function quantile(sorted: readonly number[], fraction: number): number {
  const at = (sorted.length - 1) * fraction;
  const below = sorted[Math.floor(at)] as number;
  const above = sorted[Math.ceil(at)] as number;
  return below + (above - below) * (at - Math.floor(at));
}
