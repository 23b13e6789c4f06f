/** What the threads of an exploration do, in words short enough to enumerate. */
import { LockKind } from "../../src/index.ts";

export type Action =
  /** Takes a range, waits for it, and gives it back. With `cancelable` the wait may be canceled at any moment. */
  | {
      readonly do: "use";
      readonly kind: LockKind;
      readonly start: number;
      readonly end: number;
      readonly cancelable?: true;
    }
  /** Takes a range only if that needs no waiting, and gives it back. */
  | { readonly do: "try"; readonly kind: LockKind; readonly start: number; readonly end: number }
  /** Takes a range and keeps it until `drop`. */
  | { readonly do: "take"; readonly kind: LockKind; readonly start: number; readonly end: number }
  /** Gives back what `take` took, the oldest first. */
  | { readonly do: "drop" }
  /** Takes a ticket, asks for the oldest, and compares with what it knows is in flight. */
  | { readonly do: "ticket" };

export interface Program {
  readonly name: string;
  readonly threads: readonly (readonly Action[])[];
  /** As many as there are threads, unless it says otherwise. */
  readonly slots?: number;
  /** Whether others may go on between a grant and the release. */
  readonly hold?: true;
  /** Threads that may die at any step, each followed by a recovery on a thread of its own, which may die as well. */
  readonly deaths?: number;
}

const NAMES = ["r", "w", "x", "c", "!"];

export function use(kind: LockKind, start: number, end: number): Action {
  return { do: "use", kind, start, end };
}

export function cancelable(kind: LockKind, start: number, end: number): Action {
  return { do: "use", kind, start, end, cancelable: true };
}

function describeAction(action: Action): string {
  if (action.do === "drop" || action.do === "ticket") return action.do;
  const range = `${NAMES[action.kind]}[${action.start},${action.end})`;
  if (action.do === "use") return action.cancelable === true ? `${range}?` : range;
  return `${action.do} ${range}`;
}

export function named(
  threads: readonly (readonly Action[])[],
  options: Omit<Program, "name" | "threads"> = {},
): Program {
  const name = threads.map((actions) => actions.map(describeAction).join(" ")).join(" | ");
  return { name, threads, ...options };
}

/** Every program of two threads with `length` uses each, up to exchanging the threads. */
export function* pairs(
  uses: readonly Action[],
  length: number,
  options: Omit<Program, "name" | "threads"> = {},
): Generator<Program> {
  const sequences: Action[][] = [[]];
  for (let step = 0; step < length; step++) {
    for (const sequence of sequences.splice(0)) for (const action of uses) sequences.push([...sequence, action]);
  }
  for (let first = 0; first < sequences.length; first++) {
    for (let second = first; second < sequences.length; second++)
      yield named([sequences[first] as Action[], sequences[second] as Action[]], options);
  }
}

/** In the order of their numbers. */
export const ALL_KINDS: readonly LockKind[] = [
  LockKind.read,
  LockKind.write,
  LockKind.exclusiveWrite,
  LockKind.copy,
  LockKind.change,
];
