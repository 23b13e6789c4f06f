/**
 * Which steps need not be interleaved: those that touch only what no other thread looks at or changes before the step is
 * done. What such a thread does next, and what happens to it, commutes with all that others may do first.
 */
import type { Condition, Step } from "./stepped-lock.ts";

// Words of the lock's header, as in `slot-table.ts`.
export const MUTEX_WORD = 0;
export const TICKET_LOW = 16;
export const WANTED = 22;
export const DEAD = 24;
const STATISTICS = 32;
export const HEADER_WORDS = 64;

/** In the mutex's word. */
export const NOTE = 0x100;

const WAITING = 1;
const GRANTED = 2;

export interface Privacy {
  readonly words: Int32Array;
  readonly states: Int32Array;
  /** Whether the program asks for tickets, cancels, or has deaths. */
  readonly tickets: boolean;
  readonly cancels: boolean;
  readonly deaths: boolean;
}

interface Stepping {
  readonly index: number;
  readonly next: Step | Condition | undefined;
  readonly dead: boolean;
}

export function isPrivate(context: Privacy, thread: Stepping, threads: readonly Stepping[]): boolean {
  if (!Array.isArray(thread.next)) return false;
  const [name, array, index] = thread.next as [string, unknown, number];
  if (name === "snapshot" || name === "await" || name === "hold") return false;
  if (name === "ring") {
    const other = threads[array as number];
    return other === undefined || other === thread || other.dead || other.next === undefined;
  }
  if (array === context.states) return isPrivateState(context, thread.index, name, index);
  // Only the holder of the mutex looks at the count of tickets, unless somebody asks for a ticket. Threads from 32 on do
  // not exist, statistics decide nothing, and where nobody dies nobody is marked dead.
  if (index === TICKET_LOW) return !context.tickets;
  return index === WANTED + 1 || index === DEAD + 1 || index >= STATISTICS || (index === DEAD && !context.deaths);
}

/** See `slot-state.ts` for who may change a slot's word, and when. */
function isPrivateState(context: Privacy, thread: number, name: string, slot: number): boolean {
  const state = context.states[slot] as number;
  const phase = state & 7;
  const own = ((state >> 6) & 63) === thread;
  if (phase === GRANTED && own && name === "load") return true;
  if (((context.words[MUTEX_WORD] as number) % NOTE) - 1 !== thread) return false;
  if (phase === GRANTED) return own;
  if (phase === WAITING) return name === "load" && !context.cancels;
  return true;
}
