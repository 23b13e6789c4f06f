/**
 * The one word of a slot that says everything about it, so that it changes in one step: phase, kind, the thread it
 * belongs to, and a generation that tells one use of the slot from the next.
 *
 * ```
 * bit 0-2 phase, 3-5 kind, 6-11 thread, 12-31 generation
 * ```
 */
import type { LockKind } from "./lock-kind.ts";

/**
 * The holder of the mutex makes a free slot waiting or granted, a waiting one granted, and every slot free. The thread of
 * the slot makes a waiting one canceled and a granted one released, also without the mutex.
 */
export const Phase = { free: 0, waiting: 1, granted: 2, canceled: 3, released: 4 } as const;
export type Phase = (typeof Phase)[keyof typeof Phase];

const GENERATIONS = 2 ** 20;

export function slotState(generation: number, thread: number, kind: LockKind, phase: Phase): number {
  return (generation << 12) | (thread << 6) | (kind << 3) | phase;
}

export function phaseOf(state: number): Phase {
  return (state & 7) as Phase;
}

export function kindOf(state: number): LockKind {
  return ((state >> 3) & 7) as LockKind;
}

export function threadOf(state: number): number {
  return (state >> 6) & 63;
}

export function generationOf(state: number): number {
  return state >>> 12;
}

/** The same use of the slot in another phase. */
export function inPhase(state: number, phase: Phase): number {
  return (state & ~7) | phase;
}

/** The free slot that comes after a use of it. */
export function freed(state: number): number {
  return ((generationOf(state) + 1) % GENERATIONS) << 12;
}
