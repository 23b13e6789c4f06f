/** Random faults of the storage below the images. */
import { SECTOR_SIZE, type SeededRandom } from "@spindle/base";
import type { Fault, FaultyDriver, StorageOperation } from "@spindle/testkit";

const OPERATIONS: readonly (readonly StorageOperation[] | undefined)[] = [
  undefined,
  ["read"],
  ["write"],
  ["write", "writeZeroes", "discard"],
  ["flush"],
];

/** Arms one fault on one of the files. */
export function armFaults(
  random: SeededRandom,
  files: readonly FaultyDriver[],
): { disarm: () => void; description: string } {
  // The top's file is opened first, and used most.
  const index = random.chance(0.5) ? 0 : random.below(files.length);
  const file = files[index] as FaultyDriver;
  const operations = random.pick(OPERATIONS);
  const fault: Fault = {
    ...(operations === undefined ? {} : { operations }),
    ...(random.chance(0.2) ? { range: { offset: SECTOR_SIZE * random.below(64), length: 8192 } } : {}),
    nth: 1 + random.below(random.pick([1, 4, 20])),
    sticky: random.chance(0.4),
    code: random.pick(["EIO", "ENOSPC"]),
    reached: random.pick(["nothing", "half", "all"]),
  };
  return { disarm: file.fail(fault), description: `file ${index} fails ${JSON.stringify(fault)}` };
}
