/**
 * What must hold of the slots after every step, written apart from the lock's own code: who may meet whom, who goes
 * first, and that nobody waits without a reason.
 */

/** By kind (read, write, exclusive write, copy, change): with whom it may overlap. */
const MAY_MEET = ["rwxc", "rw", "r", "r", ""];
const LETTERS = "rwxc!";
const COPY = 3;

export interface SlotView {
  readonly slot: number;
  readonly state: number;
  /** free, waiting, granted, canceled, released. */
  readonly phase: number;
  readonly kind: number;
  readonly start: number;
  readonly end: number;
  readonly ticket: number;
  /** Guests' requests that came later than this copy and did not have to wait for it. */
  overtaken: number;
}

export interface Range {
  readonly kind: number;
  readonly start: number;
  readonly end: number;
}

export class Violation extends Error {}

export function mayNotMeet(one: Range, other: Range): boolean {
  const overlap = one.start < other.end && other.start < one.end;
  return overlap && !(MAY_MEET[one.kind] as string).includes(LETTERS[other.kind] as string);
}

export class Specification {
  /** The slots after the step before. */
  before: SlotView[] = [];
  readonly #bypassLimit: number;

  constructor(bypassLimit: number) {
    this.#bypassLimit = bypassLimit;
  }

  /** How often each waiting copy was overtaken: part of the state. */
  get overtaken(): number[] {
    return this.before.map(({ overtaken }) => overtaken);
  }

  /** @param now the slots after a step @param quiet nobody is in the middle of anything that could grant */
  step(now: SlotView[], quiet: boolean): void {
    for (const slot of now) slot.overtaken = this.before[slot.slot]?.overtaken ?? 0;
    for (const slot of now) {
      const before = this.before[slot.slot];
      if (before?.state === slot.state) continue;
      const fresh = before === undefined || before.phase === 0;
      if (fresh) slot.overtaken = 0;
      if (slot.phase === 2) this.#granted(slot, now, fresh);
      if (fresh && slot.phase !== 0 && slot.kind !== COPY) this.#overtakes(slot, now);
    }
    if (quiet) for (const slot of now) if (slot.phase === 1) this.#hasReason(slot, now);
    this.before = now;
  }

  #granted(slot: SlotView, all: readonly SlotView[], fresh: boolean): void {
    for (const other of all) {
      if (other === slot || !mayNotMeet(slot, other)) continue;
      if (other.phase === 2) throw new Violation(`granted together: ${show(slot)} and ${show(other)}`);
      if (other.phase === 1 && this.#goesFirst(other, slot, fresh))
        throw new Violation(`${show(slot)} was granted before ${show(other)}`);
    }
  }

  #overtakes(guest: SlotView, all: readonly SlotView[]): void {
    for (const copy of all) {
      if (copy.phase === 1 && copy.kind === COPY && copy.ticket < guest.ticket && mayNotMeet(copy, guest))
        copy.overtaken += 1;
    }
  }

  #hasReason(slot: SlotView, all: readonly SlotView[]): void {
    const reason = all.some(
      (other) =>
        other !== slot &&
        mayNotMeet(slot, other) &&
        (other.phase === 2 || (other.phase === 1 && this.#goesFirst(other, slot, false))),
    );
    if (!reason) throw new Violation(`${show(slot)} waits for nothing`);
  }

  #goesFirst(one: SlotView, other: SlotView, otherIsFresh: boolean): boolean {
    const oneGivesWay = this.#givesWay(one);
    const otherGivesWay = other.kind === COPY && (otherIsFresh || this.#givesWay(other));
    if (oneGivesWay !== otherGivesWay) return !oneGivesWay;
    return one.ticket < other.ticket;
  }

  #givesWay(slot: SlotView): boolean {
    return slot.kind === COPY && (this.before[slot.slot]?.overtaken ?? slot.overtaken) < this.#bypassLimit;
  }
}

function show({ slot, kind, start, end, ticket }: SlotView): string {
  return `${LETTERS[kind]}[${start},${end}) (ticket ${ticket}, slot ${slot})`;
}
