/** The user of the stream jobs in a history: starts them, meddles with them, and brings the last one to its end. */
import { type Clock, type Co, isBlockError, type SeededRandom, sleep } from "@spindle/base";
import { type BlockNode, chainOf } from "@spindle/block";
import { type Job, type OnError, type StreamContext, startStream } from "@spindle/jobs";
import type { Log } from "./storage.ts";

export interface StreamDriverOptions {
  readonly context: StreamContext;
  readonly random: SeededRandom;
  readonly clock: Clock;
  /** The node that the stream is asked for. */
  readonly node: BlockNode;
  readonly clusterSize: number;
  /** Storage may fail in this history. */
  readonly faulty: boolean;
  /** Nothing fails from now on. */
  readonly disarm: () => void;
  readonly log: Log | undefined;
}

const ON_ERROR: readonly OnError[] = ["report", "ignore", "stop", "enospc"];
const SPEEDS = [0, 100_000, 1_000_000, 20_000_000, 2 ** 40];

/** So many visits to a job may change something; after them it is left to end. */
const MEDDLING_VISITS = 12;

export class StreamDriver {
  readonly #options: StreamDriverOptions;
  #jobs = 0;
  #completed = 0;

  constructor(options: StreamDriverOptions) {
    this.#options = options;
  }

  get jobs(): number {
    return this.#jobs;
  }

  /** Jobs that did all that they were to do. */
  get completed(): number {
    return this.#completed;
  }

  *run(): Co<void> {
    const { random, clock, disarm } = this.#options;
    for (let rounds = 1 + random.below(2); rounds > 0; rounds--) {
      yield* sleep(clock, random.below(80) / 10);
      yield* this.#round(true);
    }
    disarm();
    if (random.chance(0.7)) yield* this.#round(false);
  }

  *#round(meddling: boolean): Co<void> {
    const { faulty, log } = this.#options;
    const job = yield* this.#start(meddling);
    if (job === undefined) return;
    if (meddling) yield* this.#meddle(job);
    yield* this.#letEnd(job);
    const { failure } = job;
    log?.(`job: over${failure === undefined ? "" : `, failed: ${String(failure)}`}`);
    if (failure === undefined) this.#completed += 1;
    else if (!isBlockError(failure)) throw failure;
    else if (!(faulty && meddling) && !(meddling && failure.code === "ECANCELED")) throw failure;
  }

  *#start(meddling: boolean): Co<Job | undefined> {
    const { context, random, node, clusterSize, faulty, log } = this.#options;
    const layers = chainOf(node).slice(1);
    const base = meddling && layers.length > 0 && random.chance(0.4) ? random.pick(layers) : undefined;
    const options = {
      chunk: random.pick([1, 2, 4, 16]) * random.pick([512, clusterSize]),
      depth: 1 + random.below(8),
      speed: meddling ? random.pick([0, 0, ...SPEEDS]) : 0,
      onError: faulty ? random.pick(ON_ERROR) : "report",
      autoFinalize: !random.chance(0.2),
      autoDismiss: !random.chance(0.2),
      ...(base === undefined ? {} : { baseNode: base.name }),
      ...(random.chance(0.1) ? { filterNodeName: "shown" } : {}),
    } as const;
    this.#jobs += 1;
    log?.(`job: start ${JSON.stringify(options)}`);
    try {
      return yield* startStream(context, { jobId: `stream${this.#jobs}`, node, ...options });
    } catch (error) {
      log?.(`job: refused: ${String(error)}`);
      if (!faulty || !isBlockError(error)) throw error;
      return undefined;
    }
  }

  *#meddle(job: Job): Co<void> {
    const { random, clock, log } = this.#options;
    for (let visit = 0; visit < MEDDLING_VISITS && !job.over; visit++) {
      yield* sleep(clock, random.below(100) / 20);
      const verb = random.pick(["look", "look", "pause", "resume", "speed", "finalize", "cancel"] as const);
      if (verb === "cancel" && !random.chance(0.3)) continue;
      try {
        yield* this.#apply(job, verb);
        log?.(`job: ${verb}`);
      } catch (error) {
        // What a job's state does not allow is refused.
        if (!isBlockError(error, "EPERM")) throw error;
      }
    }
  }

  *#apply(job: Job, verb: "look" | "pause" | "resume" | "speed" | "finalize" | "cancel"): Co<void> {
    const { random } = this.#options;
    if (verb === "pause") job.pause();
    else if (verb === "resume") job.resume();
    else if (verb === "speed") job.setSpeed(random.pick(SPEEDS));
    else if (verb === "cancel") job.cancel(random.chance(0.7));
    else if (verb === "finalize") yield* job.finalize();
    else job.blockJobInfo();
  }

  /** Takes everything out of the job's way, again whenever an error has stopped it. */
  *#letEnd(job: Job): Co<void> {
    const { clock, disarm, log } = this.#options;
    for (let visit = 0; !job.over; visit++) {
      if (visit > 10) disarm();
      const { status } = job;
      if (status === "pending") yield* job.finalize();
      if (status === "running" && job.speed !== 0) job.setSpeed(0);
      if (job.pauseRequested && (status === "running" || status === "paused")) {
        log?.("job: resume");
        job.resume();
      }
      yield* sleep(clock, 2, () => job.over);
    }
    if (job.status === "concluded") job.dismiss();
  }
}
