/** The states of a job, the ways between them, and the verbs that each state accepts: QEMU's tables (job.c). */
import { assert, BlockError } from "@spindle/base";

export type JobStatus =
  | "created"
  | "running"
  | "paused"
  | "ready"
  | "standby"
  | "waiting"
  | "pending"
  | "aborting"
  | "concluded"
  | "null";

export type JobVerb = "cancel" | "pause" | "resume" | "set-speed" | "complete" | "finalize" | "dismiss";

const NEXT_STATES: Readonly<Record<JobStatus, readonly JobStatus[]>> = {
  created: ["running", "aborting", "null"],
  running: ["paused", "ready", "waiting", "aborting"],
  paused: ["running"],
  ready: ["standby", "waiting", "aborting"],
  standby: ["ready"],
  waiting: ["pending", "aborting"],
  pending: ["aborting", "concluded"],
  aborting: ["aborting", "concluded"],
  concluded: ["null"],
  null: [],
};

const WORKING: readonly JobStatus[] = ["created", "running", "paused", "ready", "standby"];

const STATES_OF_VERB: Readonly<Record<JobVerb, readonly JobStatus[]>> = {
  cancel: [...WORKING, "waiting", "pending"],
  pause: WORKING,
  resume: WORKING,
  "set-speed": WORKING,
  complete: ["ready", "standby"],
  finalize: ["pending"],
  dismiss: ["concluded"],
};

/** Whether a job may go from one state to another. */
export function mayBecome(from: JobStatus, to: JobStatus): boolean {
  return NEXT_STATES[from].includes(to);
}

/** Whether a job in this state accepts the verb. */
export function acceptsVerb(status: JobStatus, verb: JobVerb): boolean {
  return STATES_OF_VERB[verb].includes(status);
}

/** A job's state, which only ever moves along the table. */
export class JobState {
  readonly #id: string;
  readonly #changed: (status: JobStatus) => void;
  #status: JobStatus | undefined;

  /** @param changed is told every new state, and first of `created` when {@link enter} is called for it. */
  constructor(id: string, changed: (status: JobStatus) => void) {
    this.#id = id;
    this.#changed = changed;
  }

  get status(): JobStatus {
    return this.#status ?? "created";
  }

  enter(status: JobStatus): void {
    const from = this.#status;
    const legal = from === undefined ? status === "created" : mayBecome(from, status);
    assert(legal, `job '${this.#id}' cannot go from ${from ?? "undefined"} to ${status}`);
    this.#status = status;
    this.#changed(status);
  }

  /** @throws {BlockError} EPERM with QEMU's text when the state does not accept the verb. */
  checkVerb(verb: JobVerb): void {
    if (acceptsVerb(this.status, verb)) return;
    const message = `Job '${this.#id}' in state '${this.status}' cannot accept command verb '${verb}'`;
    throw new BlockError("EPERM", message);
  }
}
