/**
 * The order in which the pieces of a disk take their places in an image that is laid out in order. Whatever has its place
 * is written beside what comes behind it.
 */
import { type Co, join, until } from "@spindle/base";

/**
 * A write that begins when it is called. It may call `placed` before it ends; see {@link WriteFlags} of the package `block`.
 */
export type Write = (placed?: () => void) => Co<void>;

export class WriteOrder {
  /** The piece whose turn it is: all before it have their places. */
  #turn = 0;
  #stopped = false;

  /** Nothing that has not begun begins any more. */
  stop(): void {
    this.#stopped = true;
  }

  /** Waits for the turn of a piece and makes its writes. Without any it only has its turn. */
  *run(index: number, writes: readonly Write[]): Co<void> {
    yield* until(() => this.#stopped || this.#turn === index);
    let places = 0;
    const take = (step: number): void => {
      if (places !== step) return;
      places += 1;
      if (places >= writes.length) this.#turn = index + 1;
    };
    if (writes.length === 0) take(0);
    const isNext = (step: number) => (): boolean => this.#stopped || places === step;
    yield* join(writes.map((write, step) => this.#begin(write, isNext(step), () => take(step))));
  }

  *#begin(write: Write, ready: () => boolean, placed: () => void): Co<void> {
    yield* until(ready);
    if (this.#stopped) return;
    try {
      yield* write(placed);
      placed();
    } catch (error) {
      this.#stopped = true;
      throw error;
    }
  }
}
