/**
 * What a file may hold after the power failed: everything that a completed flush covers, and of the rest any part, torn
 * at sectors, because a disk with a cache writes back in any order.
 */
import { alignUp, SECTOR_SIZE, type SeededRandom } from "@spindle/base";
import type { LogEntry, WriteLog } from "./recorded-driver.ts";
import type { SparseBytes } from "./sparse-bytes.ts";

export interface CrashState {
  readonly image: SparseBytes;
  /** When the power failed, in the log's timeline: what was issued later has left no trace. */
  readonly time: number;
  /** What reached the disk, in words for a report. */
  readonly description: string;
}

/** Attempts at a new state for each one that is wanted, before there are taken to be no more. */
const ATTEMPTS_PER_STATE = 20;

/**
 * Different states of a file, at most `count`: first, for each flush, exactly what it makes durable and everything that
 * was issued before it completed; then random times with random parts of what was not yet durable. States with the same
 * content are told apart by the number of flushes that had completed, because that changes what they must hold.
 */
export function* crashStates(log: WriteLog, random: SeededRandom, count: number): Generator<CrashState, void> {
  const seen = new Set<string>();
  const isNew = (state: CrashState): boolean => {
    const key = `${completedFlushes(log, state.time)} ${state.image.contentHash()}`;
    if (seen.has(key)) return false;
    seen.add(key);
    return true;
  };
  for (const state of statesAtFlushes(log)) {
    if (seen.size >= count) return;
    if (isNew(state)) yield state;
  }
  const end = log.timeline.now + 1;
  for (let attempt = 0; attempt < count * ATTEMPTS_PER_STATE && seen.size < count; attempt++) {
    const state = randomState(log, random, 1 + random.below(end));
    if (isNew(state)) yield state;
  }
}

/** States at random times, `count` of them; a sample where the whole of {@link crashStates} is too much. */
export function* randomCrashStates(log: WriteLog, random: SeededRandom, count: number): Generator<CrashState, void> {
  const end = log.timeline.now + 1;
  for (let state = 0; state < count; state++) yield randomState(log, random, 1 + random.below(end));
}

function* statesAtFlushes(log: WriteLog): Generator<CrashState> {
  const times = [0, log.timeline.now + 1];
  for (const { change, completed } of log.entries)
    if (change.kind === "flush" && completed < Number.POSITIVE_INFINITY) times.push(completed, completed + 1);
  for (const time of times.sort((a, b) => a - b)) {
    const { durable, loose } = partition(log, time);
    yield { image: apply(log, durable), time, description: "only what is durable" };
    yield { image: apply(log, inOrderOfIssue([...durable, ...loose])), time, description: "everything issued" };
  }
}

function randomState(log: WriteLog, random: SeededRandom, time: number): CrashState {
  const { durable, loose } = partition(log, time);
  const keepChance = random.pick([0.1, 0.5, 0.9]);
  const tearChance = random.pick([0, 0.2, 1]);
  const kept: LogEntry[] = [];
  const notes: string[] = [];
  for (const entry of loose) {
    if (!random.chance(keepChance)) continue;
    const pieces = random.chance(tearChance) ? tear(entry, random) : [entry];
    kept.push(...pieces);
    notes.push(describe(entry) + (pieces[0] === entry ? "" : ` torn to ${pieces.length} pieces`));
  }
  const chosen = [...durable, ...kept];
  // Requests that were in flight together may have reached the disk in either order. Both of these orders are possible.
  const ordered = random.chance(0.5) ? inOrderOfIssue(chosen) : inOrderOfCompletion(chosen);
  const description = `${durable.length} durable requests and ${notes.length} of ${loose.length}: ${notes.join(", ")}`;
  return { image: apply(log, ordered), time, description };
}

/** Sorts what was issued before `time` into what a flush had made durable by then, and the rest. */
function partition({ entries }: WriteLog, time: number): { durable: LogEntry[]; loose: LogEntry[] } {
  let durableUntil = 0;
  for (const { change, issued, completed } of entries)
    if (change.kind === "flush" && completed <= time) durableUntil = Math.max(durableUntil, issued);
  const durable: LogEntry[] = [];
  const loose: LogEntry[] = [];
  for (const entry of entries) {
    if (entry.change.kind === "flush" || entry.issued >= time) continue;
    (entry.completed < durableUntil ? durable : loose).push(entry);
  }
  return { durable, loose };
}

function completedFlushes({ entries }: WriteLog, time: number): number {
  return entries.filter(({ change, completed }) => change.kind === "flush" && completed <= time).length;
}

function inOrderOfIssue(entries: LogEntry[]): LogEntry[] {
  return entries.sort((a, b) => a.issued - b.issued);
}

function inOrderOfCompletion(entries: LogEntry[]): LogEntry[] {
  // What never completed is as late as can be, in the order of issue.
  return entries.sort((a, b) => (a.completed === b.completed ? a.issued - b.issued : a.completed - b.completed));
}

function apply(log: WriteLog, entries: readonly LogEntry[]): SparseBytes {
  const image = log.base.clone();
  for (const { change } of entries) {
    if (change.kind === "write") image.write(change.offset, change.bytes);
    else if (change.kind === "zero") image.zero(change.offset, change.length);
    else if (change.kind === "truncate") image.truncate(change.length);
  }
  return image;
}

/** Some of the sectors of a request. */
function tear(entry: LogEntry, random: SeededRandom): LogEntry[] {
  const { change } = entry;
  if (change.kind !== "write" && change.kind !== "zero") return [entry];
  const length = change.kind === "write" ? change.bytes.length : change.length;
  const pieces: LogEntry[] = [];
  const keepChance = random.pick([0.25, 0.5, 0.75]);
  for (let start = 0; start < length; ) {
    const end = Math.min(length, alignUp(change.offset + start + 1, SECTOR_SIZE) - change.offset);
    if (random.chance(keepChance)) pieces.push({ ...entry, change: cut(change, start, end) });
    start = end;
  }
  return pieces;
}

type RangeChange = Extract<LogEntry["change"], { readonly kind: "write" | "zero" }>;

function cut(change: RangeChange, start: number, end: number): RangeChange {
  const offset = change.offset + start;
  if (change.kind === "write") return { kind: "write", offset, bytes: change.bytes.subarray(start, end) };
  return { kind: "zero", offset, length: end - start };
}

function describe({ change }: LogEntry): string {
  switch (change.kind) {
    case "write":
      return `write ${change.offset}+${change.bytes.length}`;
    case "zero":
      return `zero ${change.offset}+${change.length}`;
    case "truncate":
      return `truncate ${change.length}`;
    default:
      return "flush";
  }
}
