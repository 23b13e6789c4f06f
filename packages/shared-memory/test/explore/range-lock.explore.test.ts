import { describe, expect, it } from "vitest";
import { LockKind } from "../../src/index.ts";
import { explore } from "./explore.ts";
import { ALL_KINDS, cancelable, named, type Program, pairs, use } from "./program.ts";
import { build } from "./stepped-lock.ts";

const LONG = process.env["SPINDLE_LONG"] === "1";
const { read, write, exclusiveWrite, copy, change } = LockKind;

const lock = build();
const patient = build([], { patient: true });
const copiesPassedOnce = build([], { patient: true, bypass: 1 });

const TEN_USES = ALL_KINDS.flatMap((kind) => [use(kind, 0, 2), use(kind, 1, 3)]);
const EXCLUDING_USES = [use(exclusiveWrite, 0, 2), use(copy, 1, 3)];
const SHARING_USES = [use(read, 0, 3), use(change, 0, 2)];
const FOUR_USES = [...EXCLUDING_USES, ...SHARING_USES];

const ticket = { do: "ticket" } as const;

/** Explores every program to its end and expects that nothing goes wrong anywhere. */
function holds(group: string, made: typeof lock, programs: Iterable<Program>): void {
  const count = { programs: 0, states: 0 };
  for (const program of programs) {
    const { states, violation } = explore(made, program, 3_000_000);
    expect(violation).toBeUndefined();
    count.programs += 1;
    count.states += states;
  }
  console.log(`${group}: ${count.programs} programs, ${count.states} states`);
}

describe("the range lock, at every interleaving of its atomic steps,", { timeout: LONG ? 3_600_000 : 300_000 }, () => {
  it("serves two threads with one request each, of all kinds", () => {
    holds("two threads, one request each", lock, pairs(TEN_USES, 1, { hold: true }));
  });

  it("serves two threads with two requests each", () => {
    const programs = [...pairs(EXCLUDING_USES, 2), ...pairs(SHARING_USES, 2)];
    holds("two threads, two requests each", patient, LONG ? pairs(FOUR_USES, 2) : programs);
    if (LONG) holds("two threads, two requests each, impatient", lock, programs);
  });

  it("serves three threads", () => {
    const programs = [
      named([[use(exclusiveWrite, 0, 2)], [use(exclusiveWrite, 1, 3)], [use(copy, 0, 3)]]),
      named([[use(read, 0, 2)], [use(change, 1, 3)], [use(read, 0, 3)]]),
    ];
    const long = [
      named([[use(write, 0, 2)], [use(copy, 1, 4)], [use(exclusiveWrite, 3, 5)]]),
      named([[use(copy, 0, 2)], [use(copy, 1, 3)], [use(write, 2, 4)]]),
      named([[use(change, 0, 2)], [use(change, 1, 3)], [use(write, 0, 1)]]),
    ];
    holds("three threads", patient, LONG ? [...programs, ...long] : programs);
    if (LONG) holds("three threads, impatient", lock, programs);
  });

  it("lets waiting copies be overtaken as often as it says, and no more", () => {
    holds("copies overtaken at most once", copiesPassedOnce, [
      named([[use(copy, 0, 2)], [use(write, 0, 1), use(write, 1, 2)]]),
    ]);
    if (!LONG) return;
    holds("copies overtaken at most once, three threads", copiesPassedOnce, [
      named([[use(copy, 0, 2)], [use(exclusiveWrite, 1, 3)], [use(write, 0, 2)]]),
      named([[use(copy, 0, 2)], [use(write, 0, 1)], [use(write, 1, 2), use(write, 1, 2)]]),
    ]);
  });

  it("lets requests be canceled at any moment", () => {
    holds("canceled", lock, [
      named([[use(exclusiveWrite, 0, 2)], [cancelable(exclusiveWrite, 1, 3)]]),
      named([[cancelable(exclusiveWrite, 0, 2)], [cancelable(copy, 1, 3)]]),
    ]);
    holds("canceled, three threads", patient, [
      named([[use(read, 0, 2)], [cancelable(change, 0, 3)], [use(read, 0, 3)]]),
    ]);
  });

  it("lets requests wait for slots", () => {
    holds("too few slots", lock, [
      ...pairs([use(exclusiveWrite, 0, 2), use(read, 1, 3)], 1, { slots: 1 }),
      named(
        [
          [use(read, 0, 2), use(read, 0, 2)],
          [use(read, 1, 3), use(exclusiveWrite, 1, 3)],
        ],
        { slots: 1 },
      ),
      named([[use(read, 0, 2)], [cancelable(read, 1, 3)]], { slots: 1 }),
    ]);
    holds("too few slots, three threads", patient, [
      named([[use(read, 0, 2)], [use(write, 0, 2)], [use(copy, 0, 2)]], { slots: 1 }),
      named([[use(read, 0, 2)], [use(change, 0, 2)], [use(read, 0, 2)]], { slots: 2 }),
    ]);
  });

  it("never calls a ticket old while its request is in flight", () => {
    holds("tickets", lock, [
      named([[use(exclusiveWrite, 0, 2), use(read, 0, 2)], [ticket]], { hold: true }),
      named([[use(read, 0, 2)], [use(read, 1, 3)], [ticket]], { hold: true }),
      named([
        [{ do: "try", kind: copy, start: 0, end: 2 }, use(copy, 0, 2)],
        [use(write, 1, 3), ticket],
      ]),
    ]);
  });

  it("recovers from the death of a thread at any step", () => {
    const programs = [
      named([[use(exclusiveWrite, 0, 2)], [use(exclusiveWrite, 1, 3)]], { deaths: 1 }),
      named([[{ do: "try", kind: write, start: 0, end: 2 }], [use(copy, 1, 3)]], { deaths: 1 }),
      named([[use(exclusiveWrite, 0, 2)], [use(exclusiveWrite, 0, 2)]], { slots: 1, deaths: 1 }),
      named([[cancelable(exclusiveWrite, 0, 2)], [use(exclusiveWrite, 1, 3)]], { deaths: 1 }),
    ];
    holds("one death", patient, programs);
    if (LONG) holds("one death, impatient", lock, programs);
  });

  it.runIf(LONG)("recovers from the death of whoever recovers", () => {
    holds("two deaths", patient, [named([[use(exclusiveWrite, 0, 2)]], { deaths: 2 })]);
  });
});
