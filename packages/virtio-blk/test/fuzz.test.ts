/**
 * The fuzzer: random ring memory and a random list of driver calls. After each input the server lives, no more requests
 * were in flight than the queue holds, each has ended, and the device is at rest. A million chains of each form with
 * SPINDLE_LONG=1; a seed that fails is added to `FOUND`.
 */
import { forEachSeed } from "@spindle/testkit";
import { describe, expect, test } from "vitest";
import { fuzzInput } from "./fuzz-input.ts";
import { FuzzMachine } from "./fuzz-machine.ts";

const LONG = process.env["SPINDLE_LONG"] === "1";
/** Inputs of each of the four tests: a million chains of each form in all, or 20,000. */
const INPUTS = LONG ? 16_000 : 320;
const CHAINS = LONG ? 500_000 : 10_000;

const FORMS = [
  ["split rings", false, false],
  ["packed rings", true, false],
  ["split rings in order", false, true],
  ["packed rings in order", true, true],
] as const;

/** Seeds whose inputs once broke something. */
const FOUND: readonly number[] = [];

describe.each(FORMS)("on %s", (_, packed, inOrder) => {
  test(
    `${CHAINS} chains break nothing`,
    async () => {
      const machine = new FuzzMachine(packed, inOrder);
      const { counts } = machine;
      await forEachSeed(INPUTS, (seed) => machine.run(fuzzInput(seed, machine.area)));
      if (counts.inputs < INPUTS) return;
      expect(counts.chains).toBeGreaterThan(CHAINS);
      // An input that does not get past the rings tests little.
      expect(counts.executed).toBeGreaterThan(counts.chains / 5);
      expect(counts.latched).toBeGreaterThan(counts.inputs / 5);
    },
    LONG ? 1_200_000 : 60_000,
  );

  test.each(FOUND)("seed %i, which once broke something, breaks nothing", (seed) => {
    const machine = new FuzzMachine(packed, inOrder);
    machine.run(fuzzInput(seed, machine.area));
  });
});

test("the same seed is the same input", () => {
  const { area } = new FuzzMachine(false, false);
  expect(fuzzInput(77, area)).toEqual(fuzzInput(77, area));
  expect(fuzzInput(77, area)).not.toEqual(fuzzInput(78, area));
});
