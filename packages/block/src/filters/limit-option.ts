/** Numbers among a filter's options that must not be negative. */
import { BlockError } from "@spindle/base";

/** @throws {BlockError} EINVAL when the value is negative. 0 when absent. */
export function limitOption(options: Readonly<Record<string, unknown>>, key: string): number {
  const value = (options[key] ?? 0) as number;
  if (value < 0) throw new BlockError("EINVAL", `Parameter '${key}' expects a non-negative value`);
  return value;
}
