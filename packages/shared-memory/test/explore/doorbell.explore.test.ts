/**
 * Every interleaving of the doorbell's production source: threads that make a flag true and ring, and one that takes the
 * number, looks at the flags, and sleeps.
 */
import { describe, expect, it } from "vitest";
import { type Edit, evaluate, intoSteps, readSource } from "./rewrite-source.ts";

type Step = readonly [name: string, words: Int32Array, index: number, ...operands: number[]];
type Stepper = Generator<Step | Stepper, unknown, unknown>;
interface SteppedDoorbell {
  ring(): Stepper;
  snapshot(): Stepper;
  wait(seen: number): Stepper;
}

const RINGS = 0;

interface Walker {
  readonly stack: Stepper[];
  next: Step | undefined;
  asleep: boolean;
}

class DoorbellWorld {
  readonly #words = new Int32Array(new SharedArrayBuffer(8));
  readonly #flags: Int32Array;
  readonly #walkers: Walker[];

  constructor(made: new (words: Int32Array, first: number) => SteppedDoorbell, ringers: number) {
    this.#flags = new Int32Array(new SharedArrayBuffer(4 * ringers));
    const bells = Array.from({ length: ringers + 1 }, () => new made(this.#words, RINGS));
    const steppers = bells.map((bell, index) => (index === 0 ? this.#sleep(bell) : this.#ring(bell, index - 1)));
    this.#walkers = steppers.map((stepper) => ({ stack: [stepper], next: undefined, asleep: false }));
    for (const walker of this.#walkers) this.#advance(walker, undefined);
  }

  choices(): number[] {
    return [...this.#walkers.keys()].filter((index) => {
      const walker = this.#walkers[index] as Walker;
      return walker.next !== undefined && !walker.asleep;
    });
  }

  get sleeps(): boolean {
    return this.#walkers.some(({ asleep }) => asleep);
  }

  run(index: number): void {
    const walker = this.#walkers[index] as Walker;
    const [name, words, at, ...operands] = walker.next as Step;
    if (name === "wait") {
      if (words[at] === operands[0]) walker.asleep = true;
      else this.#advance(walker, "not-equal");
    } else if (name === "notify") {
      for (const sleeper of this.#walkers.filter(({ asleep }) => asleep)) {
        sleeper.asleep = false;
        this.#advance(sleeper, "ok");
      }
      this.#advance(walker, 1);
    } else {
      const operation = Atomics[name as "add"] as (...all: unknown[]) => number;
      this.#advance(walker, operation.call(Atomics, words, at, ...operands));
    }
  }

  *#sleep(bell: SteppedDoorbell): Stepper {
    for (;;) {
      const seen = yield bell.snapshot();
      let missing = false;
      for (let index = 0; index < this.#flags.length; index++) {
        if ((yield ["load", this.#flags, index]) === 0) missing = true;
      }
      if (!missing) return undefined;
      yield bell.wait(seen as number);
    }
  }

  *#ring(bell: SteppedDoorbell, flag: number): Stepper {
    yield ["store", this.#flags, flag, 1];
    return yield bell.ring();
  }

  #advance(walker: Walker, value: unknown): void {
    let given = value;
    walker.next = undefined;
    for (let top = walker.stack.at(-1); top !== undefined; top = walker.stack.at(-1)) {
      const result = top.next(given);
      given = undefined;
      if (result.done === true) {
        walker.stack.pop();
        given = result.value;
      } else if (Array.isArray(result.value)) {
        walker.next = result.value as unknown as Step;
        return;
      } else walker.stack.push(result.value as Stepper);
    }
  }
}

/** Runs every order of steps. @returns how many there are, or -1 when one of them ends with a sleeper. */
function orders(edits: readonly Edit[], ringers: number): number {
  const source = readSource(["doorbell.ts"], edits);
  const asynchronous = source.slice(source.indexOf("  waitAsync("), source.indexOf("  #fallAsleep("));
  const code = intoSteps(
    source.replace(asynchronous, () => ""),
    {},
  );
  const { Doorbell } = evaluate(code, ["Doorbell"], {}) as { Doorbell: new () => SteppedDoorbell };
  let ends = 0;
  const paths: number[][] = [[]];
  for (let path = paths.pop(); path !== undefined; path = paths.pop()) {
    const world = new DoorbellWorld(Doorbell, ringers);
    for (const choice of path) world.run(choice);
    for (let choices = world.choices(); choices.length > 0; choices = world.choices()) {
      for (const other of choices.slice(1)) paths.push([...path, other]);
      path.push(choices[0] as number);
      world.run(choices[0] as number);
    }
    if (world.sleeps) return -1;
    ends += 1;
  }
  return ends;
}

describe("the doorbell", () => {
  it("wakes its thread at every interleaving with one and with two who ring", () => {
    const counts = [orders([], 1), orders([], 2)];
    console.log(`doorbell: ${counts.join(" and ")} orders of steps`);
    expect(Math.min(...counts)).toBeGreaterThan(10);
  });

  const add = "    Atomics.add(this.#words, this.#rings, 1);\n";
  const notify = "    if (Atomics.load(this.#words, this.#sleeping) !== 0) Atomics.notify(this.#words, this.#rings);\n";
  const mistakes: Record<string, Edit[]> = {
    "a ring that does not change the number": [{ from: add, to: "" }],
    "a ring that looks for sleepers first": [
      { from: add, to: "" },
      { from: notify, to: notify + add },
    ],
    "a ring that wakes nobody": [{ from: notify, to: "" }],
    "a sleeper that is not counted": [
      { from: "    Atomics.store(this.#words, this.#sleeping, this.#sleepers);\n  }\n  #wakeUp", to: "  }\n  #wakeUp" },
    ],
  };
  for (const [mistake, edits] of Object.entries(mistakes)) {
    it(`would not with ${mistake}`, () => {
      expect(orders(edits, 1)).toBe(-1);
    });
  }
});
