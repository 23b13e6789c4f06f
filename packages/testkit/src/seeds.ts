/**
 * The seeds of a test that draws its inputs at random: the same few in every run, one when a failure is replayed, many
 * when somebody has time.
 */

/**
 * The numbers 1 to `count`; the one in `SPINDLE_SEED` when that is set; as many as `SPINDLE_SEEDS` says, from a random
 * start, when that is set.
 */
export function seeds(count: number): readonly number[] {
  const { SPINDLE_SEED: one, SPINDLE_SEEDS: many } = process.env;
  if (one !== undefined) return [wholeNumber("SPINDLE_SEED", one)];
  if (many === undefined) return Array.from({ length: count }, (_, index) => index + 1);
  const first = Math.floor(Math.random() * 2 ** 31);
  return Array.from({ length: wholeNumber("SPINDLE_SEEDS", many) }, (_, index) => first + index);
}

/** Runs `body` for each seed, and names the seed in the error when one fails. */
export async function forEachSeed(count: number, body: (seed: number) => void | Promise<void>): Promise<void> {
  for (const seed of seeds(count)) {
    try {
      await body(seed);
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      throw new Error(`seed ${seed} (replay with SPINDLE_SEED=${seed}): ${message}`, { cause: error });
    }
  }
}

function wholeNumber(name: string, text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0) throw new Error(`${name}='${text}' is not a whole number`);
  return value;
}
