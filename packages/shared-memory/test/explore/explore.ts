/** Depth-first search through everything that can happen; a state is entered once. */
import type { Program } from "./program.ts";
import { Violation } from "./specification.ts";
import type { Build } from "./stepped-lock.ts";
import { type Choice, type Saved, World } from "./world.ts";

export interface Outcome {
  readonly states: number;
  readonly steps: number;
  /** What went wrong and how it came to that, or undefined. */
  readonly violation: string | undefined;
}

class Limit extends Error {}

/** @param limit states at most. @throws {Limit} when there are more: an exploration is whole or it says nothing. */
export function explore(build: Build, program: Program, limit: number = Number.POSITIVE_INFINITY): Outcome {
  const seen = new Set<number>();
  const path: Choice[] = [];
  const open: { readonly choices: Choice[]; next: number; readonly saved: Saved }[] = [];
  let world: World | undefined;
  let steps = 0;
  try {
    world = new World(build, program);
    open.push({ choices: world.choices(), next: 0, saved: world.save() });
    for (let frame = open.at(-1); frame !== undefined; frame = open.at(-1)) {
      const choice = frame.choices[frame.next++];
      if (choice === undefined) {
        open.pop();
        path.pop();
        world = undefined;
        continue;
      }
      world ??= World.replayed(build, program, path, frame.saved);
      path.push(choice);
      world.apply(choice);
      steps += 1;
      const key = world.key();
      if (seen.has(key)) {
        path.pop();
        world = undefined;
        continue;
      }
      seen.add(key);
      if (seen.size > limit) throw new Limit(`more than ${limit} states: ${program.name}`);
      const choices = world.choices();
      if (choices.length === 0) world.checkEnd();
      open.push({ choices, next: 0, saved: world.save() });
    }
  } catch (error) {
    if (!(error instanceof Violation)) throw error;
    return { states: seen.size, steps, violation: `${program.name}: ${error.message}\n${trace(build, program, path)}` };
  }
  return { states: seen.size, steps, violation: undefined };
}

function trace(build: Build, program: Program, path: readonly Choice[]): string {
  const world = new World(build, program);
  const lines: string[] = [];
  try {
    for (const choice of path) {
      lines.push(`  ${world.describe(choice)}`);
      world.apply(choice);
    }
  } catch {
    // The last step is the one that went wrong.
  }
  return lines.join("\n");
}
