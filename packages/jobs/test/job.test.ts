import { BlockError, type Co, SyncRunner, until } from "@spindle/base";
import { describe, expect, it } from "vitest";
import type { Job, JobBody, JobOptions } from "../src/job.ts";
import type { JobEvent } from "../src/job-event.ts";
import { JobRegistry } from "../src/job-registry.ts";

/** A body that works until it is told to be done or to fail, and can be paused at any time. */
class ScriptedBody implements JobBody {
  readonly type = "stream";
  done = false;
  failure: BlockError | undefined;
  prepareFailure: BlockError | undefined;
  prepared = 0;
  cleaned = 0;

  *run(job: Job): Co<void> {
    job.setProgress(10, 100);
    while (!job.cancelled && !this.done && this.failure === undefined) {
      yield* until(() => this.done || this.failure !== undefined || job.pauseRequested || job.cancelled);
      yield* job.pausePoint();
    }
    if (this.failure !== undefined) throw this.failure;
    if (!job.cancelled) job.setProgress(100, 100);
  }
  *prepare(): Co<void> {
    this.prepared += 1;
    if (this.prepareFailure !== undefined) throw this.prepareFailure;
  }
  *clean(): Co<void> {
    this.cleaned += 1;
  }
  statistics(): Record<string, number> {
    return { prepared: this.prepared };
  }
}

function start(options: Partial<JobOptions> = {}) {
  const clock = { now: () => 0 };
  const runner = new SyncRunner(clock);
  const registry = new JobRegistry({ clock, runner });
  const events: string[] = [];
  const raw: JobEvent[] = [];
  registry.onEvent((event) => {
    raw.push(event);
    const { data } = event;
    events.push("status" in data ? data.status : event.event);
  });
  const body = new ScriptedBody();
  const job = registry.start(body, { id: "j", ...options });
  return { registry, runner, events, raw, body, job };
}

function message(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    return (error as Error).message;
  }
  return "accepted";
}

describe("the life of a job", () => {
  it("succeeds with QEMU's events in QEMU's order", () => {
    const { registry, runner, events, raw, body, job } = start({ speed: 7 });
    expect(events).toEqual(["created", "running"]);
    body.done = true;
    runner.poll();
    expect(events).toEqual(["created", "running", "waiting", "pending", "BLOCK_JOB_COMPLETED", "concluded", "null"]);
    expect(raw[4]?.data).toEqual({ type: "stream", device: "j", len: 100, offset: 100, speed: 7 });
    expect([body.prepared, body.cleaned]).toEqual([1, 1]);
    expect(registry.list()).toEqual([]);
    expect(job.status).toBe("null");
  });

  it("waits for finalize and for dismiss when it is told to", () => {
    const { registry, runner, events, raw, body, job } = start({ autoFinalize: false, autoDismiss: false });
    body.done = true;
    runner.poll();
    expect(events.slice(2)).toEqual(["waiting", "pending", "BLOCK_JOB_PENDING"]);
    expect(raw[4]?.data).toEqual({ type: "stream", id: "j" });
    expect(body.prepared).toBe(0);
    runner.run(job.finalize());
    expect(events.slice(5)).toEqual(["BLOCK_JOB_COMPLETED", "concluded"]);
    expect(registry.queryJobs()).toEqual([
      { id: "j", type: "stream", status: "concluded", "current-progress": 100, "total-progress": 100 },
    ]);
    job.dismiss();
    expect(events.at(-1)).toBe("null");
    expect(registry.find("j")).toBeUndefined();
  });

  it("is cancelled while it works, while it is paused, and while it is pending", () => {
    for (const when of ["running", "paused", "pending"] as const) {
      const { runner, events, raw, body, job } = start({ autoFinalize: false });
      if (when === "paused") job.pause();
      if (when === "pending") body.done = true;
      runner.poll();
      expect(job.status).toBe(when);
      if (when === "paused")
        expect(message(() => job.cancel(false))).toBe("The block job for device 'j' is currently paused");
      job.cancel();
      runner.poll();
      const end = ["aborting", "BLOCK_JOB_CANCELLED", "concluded", "null"];
      expect(events.slice(-end.length)).toEqual(end);
      if (when === "paused") expect(events.at(-end.length - 1)).toBe("running");
      expect(raw.find((event) => event.event === "BLOCK_JOB_CANCELLED")?.data).not.toHaveProperty("error");
      expect([body.prepared, body.cleaned]).toEqual([0, 1]);
    }
  });

  it("fails with the text of the error's number", () => {
    for (const step of ["run", "prepare"] as const) {
      const { runner, events, raw, body } = start();
      if (step === "run") body.failure = new BlockError("EIO", "details");
      else {
        body.prepareFailure = new BlockError("ENOSPC", "details");
        body.done = true;
      }
      runner.poll();
      expect(events.slice(-4)).toEqual(["aborting", "BLOCK_JOB_COMPLETED", "concluded", "null"]);
      const error = step === "run" ? "Input/output error" : "No space left on device";
      expect(raw.find((event) => event.event === "BLOCK_JOB_COMPLETED")?.data).toMatchObject({ error });
      expect(body.cleaned).toBe(1);
    }
  });

  it("pauses and resumes, and says so", () => {
    const { registry, runner, events, job } = start();
    runner.poll();
    job.pause();
    // The wish is seen at once; the state follows at the next pause point.
    expect(registry.queryBlockJobs()[0]).toMatchObject({ paused: true, status: "running", busy: true });
    runner.poll();
    expect(registry.queryBlockJobs()[0]).toMatchObject({ paused: true, status: "paused", busy: false });
    expect(message(() => job.pause())).toBe("Job is already paused");
    job.resume();
    expect(message(() => job.resume())).toBe("Can't resume a job that was not paused");
    runner.poll();
    expect(events).toEqual(["created", "running", "paused", "running"]);
    expect(message(() => job.setSpeed(-1))).toBe("Parameter 'speed' expects a non-negative value");
    expect(message(() => job.complete())).toBe("Job 'j' in state 'running' cannot accept command verb 'complete'");
    expect(message(() => job.finalize().next())).toBe(
      "Job 'j' in state 'running' cannot accept command verb 'finalize'",
    );
    expect(message(() => job.dismiss())).toBe("Job 'j' in state 'running' cannot accept command verb 'dismiss'");
  });

  it("decides about errors by the policy, and tells the monitor", () => {
    const table = [
      ["report", "EIO", "report", "ok"],
      ["ignore", "EIO", "ignore", "ok"],
      ["stop", "EIO", "stop", "failed"],
      ["stop", "ENOSPC", "stop", "nospace"],
      ["enospc", "EIO", "report", "ok"],
      ["enospc", "ENOSPC", "stop", "nospace"],
      ["auto", "ENOSPC", "stop", "nospace"],
      ["auto", "EIO", "report", "ok"],
    ] as const;
    for (const [policy, code, action, ioStatus] of table) {
      const { registry, raw, job } = start();
      expect(job.errorAction(policy, "write", new BlockError(code, "x"))).toBe(action);
      expect(raw.at(-1)).toEqual({ event: "BLOCK_JOB_ERROR", data: { device: "j", operation: "write", action } });
      expect(registry.queryBlockJobs()[0]).toMatchObject({ "io-status": ioStatus, paused: action === "stop" });
      if (action !== "stop") continue;
      job.resume();
      expect(job.ioStatus).toBe("ok");
    }
  });

  it("answers query-block-jobs with QEMU's keys", () => {
    const { registry, runner } = start({ speed: 5 });
    runner.poll();
    expect(registry.queryBlockJobs()).toEqual([
      {
        type: "stream",
        device: "j",
        len: 100,
        offset: 10,
        busy: true,
        paused: false,
        speed: 5,
        "io-status": "ok",
        ready: false,
        status: "running",
        "auto-finalize": true,
        "auto-dismiss": true,
        "x-statistics": { prepared: 0 },
      },
    ]);
  });
});

describe("the registry", () => {
  it("refuses ids that are malformed or taken, and negative speeds, in QEMU's words", () => {
    const { registry, events } = start();
    for (const id of ["", "1j", "a b", "-"])
      expect(message(() => registry.start(new ScriptedBody(), { id }))).toBe(`Invalid job ID '${id}'`);
    expect(message(() => registry.start(new ScriptedBody(), { id: "j" }))).toBe("Job ID 'j' already in use");
    events.length = 0;
    const negative = message(() => registry.start(new ScriptedBody(), { id: "k", speed: -1 }));
    expect(negative).toBe("Parameter 'speed' expects a non-negative value");
    // QEMU makes the job before it looks at its speed.
    expect(events).toEqual(["created", "null"]);
    expect(registry.list().map((job) => job.id)).toEqual(["j"]);
  });

  it("lists the newest job first, and cancels all", () => {
    const { registry, runner, body } = start({ autoDismiss: false });
    registry.start(new ScriptedBody(), { id: "k", autoFinalize: false });
    expect(registry.queryJobs().map((job) => job.id)).toEqual(["k", "j"]);
    body.done = true;
    runner.poll();
    runner.run(registry.cancelAll());
    expect(registry.queryJobs().map((job) => [job.id, job.status])).toEqual([["j", "concluded"]]);
  });
});
