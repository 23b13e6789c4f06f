import { AssertionError, isBlockError } from "@spindle/base";
import { describe, expect, it } from "vitest";
import { acceptsVerb, JobState, type JobStatus, type JobVerb, mayBecome } from "../src/job-state.ts";

const STATES: readonly JobStatus[] = [
  "created",
  "running",
  "paused",
  "ready",
  "standby",
  "waiting",
  "pending",
  "aborting",
  "concluded",
  "null",
];
const VERBS: readonly JobVerb[] = ["cancel", "pause", "resume", "set-speed", "complete", "finalize", "dismiss"];

/** QEMU's tables, one letter a state in the order above: C R P Y S W D X E N. */
const TRANSITIONS: Readonly<Record<JobStatus, string>> = {
  created: ".R.....X.N",
  running: "..PY.W.X..",
  paused: ".R........",
  ready: "....SW.X..",
  standby: "...Y......",
  waiting: "......DX..",
  pending: ".......XE.",
  aborting: ".......XE.",
  concluded: ".........N",
  null: "..........",
};
const ACCEPTED: Readonly<Record<JobVerb, string>> = {
  cancel: "CRPYSWD...",
  pause: "CRPYS.....",
  resume: "CRPYS.....",
  "set-speed": "CRPYS.....",
  complete: "...YS.....",
  finalize: "......D...",
  dismiss: "........E.",
};

/** The ways from `created` to every state. */
const PATHS: Readonly<Record<JobStatus, readonly JobStatus[]>> = {
  created: [],
  running: ["running"],
  paused: ["running", "paused"],
  ready: ["running", "ready"],
  standby: ["running", "ready", "standby"],
  waiting: ["running", "waiting"],
  pending: ["running", "waiting", "pending"],
  aborting: ["running", "aborting"],
  concluded: ["running", "aborting", "concluded"],
  null: ["null"],
};

function stateIn(status: JobStatus): JobState {
  const state = new JobState("j", () => {});
  state.enter("created");
  for (const next of PATHS[status]) state.enter(next);
  return state;
}

describe("the states of a job", () => {
  it("has QEMU's transitions and no others", () => {
    for (const from of STATES)
      STATES.forEach((to, index) => {
        expect(`${from}-${to} ${mayBecome(from, to)}`).toBe(`${from}-${to} ${TRANSITIONS[from][index] !== "."}`);
        const state = stateIn(from);
        if (mayBecome(from, to)) state.enter(to);
        else expect(() => state.enter(to)).toThrow(AssertionError);
      });
  });

  it("accepts QEMU's verbs in each state and refuses the others in its words", () => {
    for (const verb of VERBS)
      STATES.forEach((status, index) => {
        const accepted = ACCEPTED[verb][index] !== ".";
        expect(acceptsVerb(status, verb)).toBe(accepted);
        const state = stateIn(status);
        let message = "accepted";
        try {
          state.checkVerb(verb);
        } catch (error) {
          expect(isBlockError(error, "EPERM")).toBe(true);
          message = (error as Error).message;
        }
        const refusal = `Job 'j' in state '${status}' cannot accept command verb '${verb}'`;
        expect(message).toBe(accepted ? "accepted" : refusal);
      });
  });

  it("tells every state once, `created` first", () => {
    const told: JobStatus[] = [];
    const state = new JobState("j", (status) => told.push(status));
    state.enter("created");
    state.enter("running");
    state.enter("aborting");
    expect(told).toEqual(["created", "running", "aborting"]);
  });
});
