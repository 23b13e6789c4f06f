import { BlockError, type Co, join, SeededRandom, sleep } from "@spindle/base";
import { forEachSeed, SimulatedRunner } from "@spindle/testkit";
import { describe, expect, it } from "vitest";
import { type Write, WriteOrder } from "../src/convert/write-order.ts";

/** Writes that note when they take their places; most of a write's time comes after that. */
class Target {
  readonly places: number[] = [];
  writing = 0;
  writingMost = 0;
  readonly #runner: SimulatedRunner;
  readonly #random: SeededRandom;

  constructor(seed: number) {
    this.#runner = new SimulatedRunner(seed);
    this.#random = new SeededRandom(seed);
  }

  /** Runs pieces of up to three writes each, each piece in a coroutine of its own. */
  run(pieces: number, order: WriteOrder, failing?: number): void {
    let number = 0;
    const lanes = Array.from({ length: pieces }, (_, piece) => {
      const writes = Array.from({ length: this.#random.below(4) }, () => this.#write(number++, failing));
      return this.#piece(order, piece, writes);
    });
    this.#runner.run(join(lanes));
  }

  *#piece(order: WriteOrder, piece: number, writes: readonly Write[]): Co<void> {
    yield* this.#pause();
    yield* order.run(piece, writes);
  }

  #write(number: number, failing: number | undefined): Write {
    const target = this;
    return function* (placed) {
      target.writing += 1;
      target.writingMost = Math.max(target.writingMost, target.writing);
      yield* target.#pause();
      target.places.push(number);
      if (number === failing) throw new BlockError("ENOSPC", "no room");
      if (number % 2 === 0) placed?.();
      yield* target.#pause();
      target.writing -= 1;
    };
  }

  #pause(): Co<void> {
    return sleep(this.#runner.clock, this.#random.below(20));
  }
}

describe("pieces that are laid out in order", () => {
  it("take their places in the order of the disk, and are written beside each other", async () => {
    await forEachSeed(50, (seed) => {
      const target = new Target(seed);
      target.run(12, new WriteOrder());
      expect(target.places).toEqual(target.places.map((_, index) => index));
      expect(target.writing).toBe(0);
      if (target.places.length > 10) expect(target.writingMost).toBeGreaterThan(1);
    });
  });

  it("begin no more when one has failed", async () => {
    await forEachSeed(50, (seed) => {
      const target = new Target(seed);
      expect(() => target.run(12, new WriteOrder(), 4)).toThrow("no room");
      expect(target.places).toEqual([0, 1, 2, 3, 4]);
    });
  });
});
