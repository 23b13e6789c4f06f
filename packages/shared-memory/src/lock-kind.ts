/** The kinds of request that a range lock tells apart, and which of them may meet (docs/locking.md). */

/**
 * - `read` looks at the data, and waits only for `change`.
 * - `write` overwrites clusters in place. Writes may overlap: whoever sends both at once asks for either result.
 * - `exclusiveWrite` allocates, zeroes, discards or reads and modifies: alone among the writers.
 * - `copy` fills clusters from elsewhere, with data that says nothing new, so readers may look on.
 * - `change` resizes or rebuilds: alone.
 */
export const LockKind = { read: 0, write: 1, exclusiveWrite: 2, copy: 3, change: 4 } as const;
export type LockKind = (typeof LockKind)[keyof typeof LockKind];

const READ: number = 1 << LockKind.read;
const WRITE: number = 1 << LockKind.write;
const EXCLUSIVE_WRITE: number = 1 << LockKind.exclusiveWrite;
const COPY: number = 1 << LockKind.copy;
const CHANGE: number = 1 << LockKind.change;

/** By kind: the kinds that it may not meet, one bit each. */
export const CONFLICTS: readonly number[] = [
  CHANGE,
  EXCLUSIVE_WRITE | COPY | CHANGE,
  WRITE | EXCLUSIVE_WRITE | COPY | CHANGE,
  WRITE | EXCLUSIVE_WRITE | COPY | CHANGE,
  READ | WRITE | EXCLUSIVE_WRITE | COPY | CHANGE,
];

/** Whether two kinds may not overlap. */
export function conflict(one: number, other: number): boolean {
  return (((CONFLICTS[one] as number) >> other) & 1) !== 0;
}
