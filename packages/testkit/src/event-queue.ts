/** What will happen in a simulation, by virtual time: a binary heap. Events of one time happen in the order they came. */

export interface ScheduledEvent {
  readonly atMs: number;
  /** The event's number: counts up from 0. */
  readonly order: number;
  happen(): void;
}

export class EventQueue {
  readonly #heap: ScheduledEvent[] = [];
  #nextOrder = 0;

  get size(): number {
    return this.#heap.length;
  }

  /** When the next event happens, or undefined. */
  get nextMs(): number | undefined {
    return this.#heap[0]?.atMs;
  }

  add(atMs: number, happen: () => void): void {
    const event: ScheduledEvent = { atMs, order: this.#nextOrder++, happen };
    let index = this.#heap.length;
    this.#heap.push(event);
    while (index > 0) {
      const parent = Math.floor((index - 1) / 2);
      if (!isBefore(event, this.#at(parent))) break;
      this.#heap[index] = this.#at(parent);
      index = parent;
    }
    this.#heap[index] = event;
  }

  /** Takes the next event out. */
  take(): ScheduledEvent | undefined {
    const [first] = this.#heap;
    const last = this.#heap.pop();
    if (first === undefined || last === undefined || this.#heap.length === 0) return first;
    let index = 0;
    for (;;) {
      let child = 2 * index + 1;
      if (child >= this.#heap.length) break;
      if (child + 1 < this.#heap.length && isBefore(this.#at(child + 1), this.#at(child))) child += 1;
      if (!isBefore(this.#at(child), last)) break;
      this.#heap[index] = this.#at(child);
      index = child;
    }
    this.#heap[index] = last;
    return first;
  }

  #at(index: number): ScheduledEvent {
    return this.#heap[index] as ScheduledEvent;
  }
}

function isBefore(a: ScheduledEvent, b: ScheduledEvent): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
}
