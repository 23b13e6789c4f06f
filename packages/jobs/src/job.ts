/**
 * One job: its state, the verbs that users apply to it, and its life from `running` to `null`. What it does in between
 * is its {@link JobBody}. Everything runs on the graph's owner thread; verbs take effect at the body's next pause point.
 */
import {
  assert,
  BlockError,
  type Clock,
  type Co,
  encodeError,
  errnoText,
  isBlockError,
  sleep,
  until,
} from "@spindle/base";
import type {
  BlockJobEventData,
  BlockJobInfo,
  ErrorAction,
  IoStatus,
  JobEvent,
  JobInfo,
  JobType,
} from "./job-event.ts";
import { JobState, type JobStatus } from "./job-state.ts";
import { RateLimit } from "./rate-limit.ts";

/** What a job does. Each method is called once, in this order, from the job's own coroutine. */
export interface JobBody {
  readonly type: JobType;
  /**
   * The work. It returns when it is done or when it sees {@link Job.cancelled}, calls {@link Job.pausePoint} often, and
   * throws to fail.
   */
  run(job: Job): Co<void>;
  /** The last step of a success, after `finalize`. */
  prepare(): Co<void>;
  /** Gives back whatever the job held, whether it succeeded or not. */
  clean(): Co<void>;
  statistics(): Readonly<Record<string, number | string>>;
}

/** What a user does about errors; `auto` is the same as `enospc`. */
export type OnError = "report" | "ignore" | "stop" | "enospc" | "auto";

export interface JobOptions {
  readonly id: string;
  /** Bytes per second; 0, the default, for no limit. */
  readonly speed?: number;
  /** Default true: the job does its last step by itself. */
  readonly autoFinalize?: boolean;
  /** Default true: the job vanishes by itself when it is over. */
  readonly autoDismiss?: boolean;
}

/** What a job needs of the registry that it lives in. */
export interface JobHost {
  readonly clock: Clock;
  emit(event: JobEvent): void;
  /** Something changed that a parked coroutine may wait for. */
  wake(): void;
  /** Runs a coroutine beside the others of this thread. */
  spawn(co: Co<void>, settled: (error: unknown) => void): void;
  dismissed(job: Job): void;
}

export class Job {
  readonly id: string;
  readonly autoFinalize: boolean;
  readonly autoDismiss: boolean;
  readonly limit: RateLimit;
  readonly #host: JobHost;
  readonly #body: JobBody;
  readonly #state: JobState;
  #offset = 0;
  #len = 0;
  #busy = false;
  #userPaused = false;
  #cancelled = false;
  #finalizing = false;
  #ioStatus: IoStatus = "ok";
  #failure: unknown;

  /** Made by the registry, which has checked the id. */
  constructor(host: JobHost, body: JobBody, options: JobOptions) {
    this.id = options.id;
    this.autoFinalize = options.autoFinalize ?? true;
    this.autoDismiss = options.autoDismiss ?? true;
    this.limit = new RateLimit(host.clock, options.speed ?? 0);
    this.#host = host;
    this.#body = body;
    this.#state = new JobState(this.id, (status) =>
      host.emit({ event: "JOB_STATUS_CHANGE", data: { id: this.id, status } }),
    );
    this.#state.enter("created");
  }

  get type(): JobType {
    return this.#body.type;
  }
  get status(): JobStatus {
    return this.#state.status;
  }
  get clock(): Clock {
    return this.#host.clock;
  }
  /** Bytes per second; 0 for no limit. */
  get speed(): number {
    return this.limit.speed;
  }
  /** The job is to stop as soon as it can. */
  get cancelled(): boolean {
    return this.#cancelled;
  }
  /** A user, or an error under the policy `stop`, wants the job to pause. */
  get pauseRequested(): boolean {
    return this.#userPaused;
  }
  /** Bytes: the first one that is not done. */
  get offset(): number {
    return this.#offset;
  }
  /** Bytes. */
  get len(): number {
    return this.#len;
  }
  get ioStatus(): IoStatus {
    return this.#ioStatus;
  }
  /** Why the job failed, with all that is known; undefined while it has not. */
  get failure(): unknown {
    return this.#failure;
  }
  /** Whether the job is over: `concluded`, or gone. */
  get over(): boolean {
    return this.status === "concluded" || this.status === "null";
  }

  /** Lets the job begin. @throws {BlockError} EINVAL when its speed is negative; it is gone then. */
  start(): void {
    try {
      checkSpeed(this.speed);
    } catch (error) {
      this.#state.enter("null");
      throw error;
    }
    this.#state.enter("running");
    this.#busy = true;
    this.#host.spawn(this.#live(), (error) => {
      if (error !== undefined) throw error;
    });
  }

  /**
   * Stops the job as soon as it can; what it has done stays. Wait for the end with {@link ended}.
   * @param force also when a user has paused it: `job-cancel` does, `block-job-cancel` does when it is asked to
   * @throws {BlockError} EPERM when it is past that, or paused and not forced.
   */
  cancel(force = true): void {
    if (this.#userPaused && !force)
      throw new BlockError("EPERM", `The block job for device '${this.id}' is currently paused`);
    this.#state.checkVerb("cancel");
    if (this.#finalizing) return;
    this.#cancelled = true;
    if (this.#userPaused) this.#endPause();
    this.#host.wake();
  }

  /** @throws {BlockError} EPERM when the state does not allow it or the job is already paused. */
  pause(): void {
    this.#state.checkVerb("pause");
    if (this.#userPaused) throw new BlockError("EPERM", "Job is already paused");
    this.#userPaused = true;
    this.#host.wake();
  }

  /** @throws {BlockError} EPERM when the state does not allow it or the job is not paused. */
  resume(): void {
    this.#state.checkVerb("resume");
    if (!this.#userPaused) throw new BlockError("EPERM", "Can't resume a job that was not paused");
    this.#endPause();
    this.#host.wake();
  }

  /** @throws {BlockError} EPERM always: no job here has a `ready` state to complete from. */
  complete(): void {
    this.#state.checkVerb("complete");
    throw new BlockError("EPERM", `The active block job '${this.id}' cannot be completed`);
  }

  /**
   * @param speed bytes per second, 0 for no limit
   * @throws {BlockError} EPERM when the state does not allow it, EINVAL when the speed is negative.
   */
  setSpeed(speed: number): void {
    this.#state.checkVerb("set-speed");
    checkSpeed(speed);
    this.limit.setSpeed(speed);
    this.#host.wake();
  }

  /**
   * Lets a job that waits in `pending` do its last step, and waits until it is over.
   * @throws {BlockError} EPERM in any other state.
   */
  *finalize(): Co<void> {
    this.#state.checkVerb("finalize");
    this.#finalizing = true;
    this.#host.wake();
    yield* this.ended();
  }

  /** Forgets a job that is over. @throws {BlockError} EPERM in any other state. */
  dismiss(): void {
    this.#state.checkVerb("dismiss");
    this.#state.enter("null");
    this.#host.dismissed(this);
  }

  /** Waits until the job is over. */
  ended(): Co<void> {
    return until(() => this.over);
  }

  /** For bodies: pauses here for as long as a pause is wanted. No I/O of the job may be in flight. */
  *pausePoint(): Co<void> {
    if (!this.#userPaused || this.#cancelled) return;
    this.#state.enter("paused");
    this.#busy = false;
    yield* until(() => !this.#userPaused);
    this.#busy = true;
    this.#state.enter("running");
  }

  /** For bodies: waits for at most `durationMs`, less when the user wants something of the job. */
  *idle(durationMs: number, interrupted?: () => boolean): Co<void> {
    this.#busy = false;
    const wanted = (): boolean => this.#cancelled || this.#userPaused || interrupted?.() === true;
    yield* sleep(this.#host.clock, durationMs, wanted);
    this.#busy = true;
  }

  /** For bodies: runs a part of the work beside the job's own coroutine. */
  spawn(co: Co<void>, settled: (error: unknown) => void): void {
    this.#host.spawn(co, settled);
  }

  /** For bodies: bytes done without a gap from the start, and bytes in all. */
  setProgress(offset: number, len: number): void {
    this.#offset = offset;
    this.#len = len;
  }

  /**
   * For bodies: what to do about an error, after telling the monitor. For `stop` the job has been told to pause; the
   * body tries the same range again when it goes on.
   */
  errorAction(policy: OnError, operation: "read" | "write", error: unknown): ErrorAction {
    const noSpace = isBlockError(error, "ENOSPC");
    const action = policy === "enospc" || policy === "auto" ? (noSpace ? "stop" : "report") : policy;
    this.#host.emit({ event: "BLOCK_JOB_ERROR", data: { device: this.id, operation, action } });
    if (action === "stop") {
      this.#userPaused = true;
      if (this.#ioStatus === "ok") this.#ioStatus = noSpace ? "nospace" : "failed";
    }
    return action;
  }

  blockJobInfo(): BlockJobInfo {
    return {
      type: this.type,
      device: this.id,
      len: this.#len,
      offset: this.#offset,
      busy: this.#busy,
      paused: this.#userPaused,
      speed: this.speed,
      "io-status": this.#ioStatus,
      ready: false,
      status: this.status,
      "auto-finalize": this.autoFinalize,
      "auto-dismiss": this.autoDismiss,
      ...this.#errorKey(),
      "x-statistics": this.#body.statistics(),
    };
  }

  jobInfo(): JobInfo {
    return {
      id: this.id,
      type: this.type,
      status: this.status,
      "current-progress": this.#offset,
      "total-progress": this.#len,
      ...this.#errorKey(),
    };
  }

  *#live(): Co<void> {
    try {
      yield* this.#body.run(this);
    } catch (error) {
      this.#failure = error;
    }
    this.#busy = false;
    if (this.#failure === undefined && !this.#cancelled) yield* this.#complete();
    if (this.#cancelled) this.#failure ??= new BlockError("ECANCELED", "the job was cancelled");
    if (this.#failure !== undefined) this.#state.enter("aborting");
    yield* this.#clean();
    const data = this.#eventData();
    this.#host.emit(this.#cancelled ? { event: "BLOCK_JOB_CANCELLED", data } : { event: "BLOCK_JOB_COMPLETED", data });
    this.#state.enter("concluded");
    if (this.autoDismiss) this.dismiss();
    this.#host.wake();
  }

  /** From the end of the work to the end of the last step; a user may still cancel while it waits in `pending`. */
  *#complete(): Co<void> {
    this.#state.enter("waiting");
    this.#state.enter("pending");
    if (this.autoFinalize) this.#finalizing = true;
    else this.#host.emit({ event: "BLOCK_JOB_PENDING", data: { type: this.type, id: this.id } });
    yield* until(() => this.#finalizing || this.#cancelled);
    if (this.#cancelled) return;
    try {
      yield* this.#body.prepare();
    } catch (error) {
      this.#failure = error;
    }
  }

  *#clean(): Co<void> {
    try {
      yield* this.#body.clean();
    } catch (error) {
      // The outcome stands: a file that fails to close after its job must not make a success look like a failure.
      assert(isBlockError(error), `cleaning up after job '${this.id}': ${encodeError(error).message}`);
    }
  }

  #endPause(): void {
    this.#userPaused = false;
    this.#ioStatus = "ok";
  }

  #eventData(): BlockJobEventData {
    const { type, id: device, speed } = this;
    const error = this.#cancelled ? {} : this.#errorKey();
    return { type, device, len: this.#len, offset: this.#offset, speed, ...error };
  }

  #errorKey(): { error?: string } {
    return this.#failure === undefined ? {} : { error: errnoText(encodeError(this.#failure).code) };
  }
}

/** @throws {BlockError} EINVAL when it is no speed: a whole number of bytes per second, not negative. */
function checkSpeed(speed: number): void {
  if (Number.isSafeInteger(speed) && speed >= 0) return;
  throw new BlockError("EINVAL", "Parameter 'speed' expects a non-negative value");
}
