/** One count of events for everything that is recorded in a run, so that "before" means the same everywhere. */
export class Timeline {
  #last = 0;

  /** The time of a new event: later than every one before. */
  next(): number {
    this.#last += 1;
    return this.#last;
  }

  /** The time of the last event. */
  get now(): number {
    return this.#last;
  }
}
