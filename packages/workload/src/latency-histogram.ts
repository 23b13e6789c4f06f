/**
 * Latencies in shared memory, log-linear as fio keeps them: 32 buckets for every power of two, so that a percentile is
 * right within 1.6 %. One thread adds, any thread reads.
 */

const SUB_BUCKETS = 64;
const POWERS = 30;
const BUCKET_COUNT: number = SUB_BUCKETS * POWERS;

export class LatencyHistogram {
  readonly #counts: Int32Array;

  static allocate(): SharedArrayBuffer {
    return new SharedArrayBuffer(BUCKET_COUNT * 4);
  }

  constructor(memory: SharedArrayBuffer) {
    this.#counts = new Int32Array(memory);
  }

  add(durationMs: number): void {
    const bucket = bucketOf(Math.max(0, Math.round(durationMs * 1e6)));
    Atomics.add(this.#counts, bucket, 1);
  }

  /** Adds another histogram's counts to this one. */
  merge(other: LatencyHistogram): void {
    for (let bucket = 0; bucket < BUCKET_COUNT; bucket++)
      Atomics.add(this.#counts, bucket, Atomics.load(other.#counts, bucket));
  }

  get count(): number {
    return this.#counts.reduce((sum, count) => sum + count, 0);
  }

  /**
   * @param fraction 0 to 1
   * @returns milliseconds, NaN when nothing was added
   */
  percentile(fraction: number): number {
    const wanted = Math.max(1, Math.ceil(this.count * fraction));
    let seen = 0;
    for (let bucket = 0; bucket < BUCKET_COUNT; bucket++) {
      seen += this.#counts[bucket] as number;
      if (seen >= wanted) return middleOf(bucket) / 1e6;
    }
    return Number.NaN;
  }
}

function bucketOf(nanoseconds: number): number {
  if (nanoseconds < SUB_BUCKETS) return nanoseconds;
  const power = Math.floor(Math.log2(nanoseconds)) - 5;
  const sub = Math.floor(nanoseconds / 2 ** power) - SUB_BUCKETS / 2;
  return Math.min(BUCKET_COUNT - 1, SUB_BUCKETS + (power - 1) * (SUB_BUCKETS / 2) + sub);
}

/** The middle of a bucket, in nanoseconds. */
function middleOf(bucket: number): number {
  if (bucket < SUB_BUCKETS) return bucket;
  const power = Math.floor((bucket - SUB_BUCKETS) / (SUB_BUCKETS / 2)) + 1;
  const sub = ((bucket - SUB_BUCKETS) % (SUB_BUCKETS / 2)) + SUB_BUCKETS / 2;
  return (sub + 0.5) * 2 ** power;
}
