/** Assertions are for our own bugs and stay on; bytes from outside are validated instead and end in a BlockError. */

export class AssertionError extends Error {
  override readonly name = "AssertionError";
}

/** @throws {AssertionError} when the condition does not hold: a bug of this project. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new AssertionError(message);
}

/** Marks a branch that the types rule out. */
export function unreachable(value: never): never {
  throw new AssertionError(`unreachable: ${String(value)}`);
}
