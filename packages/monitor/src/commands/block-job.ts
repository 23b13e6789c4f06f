/** Verbs and queries for block jobs by their old names, which know a job as `device`. */
import type { Co } from "@spindle/base";
import type { Job } from "@spindle/jobs";
import { type Command, type CommandContext, command } from "../command.ts";
import { cancelJob, pauseJob, resumeJob } from "../job-verbs.ts";
import { blockJobNotFound } from "../qmp-error.ts";

function find({ jobs }: CommandContext, id: string): Job {
  const job = jobs.find(id);
  if (job === undefined) throw blockJobNotFound(id);
  return job;
}

export const blockJobCommands: readonly Command[] = [
  command("query-block-jobs", {}, function* ({ jobs }) {
    return jobs.queryBlockJobs();
  }),
  command("block-job-set-speed", { device: "string", speed: "integer" }, function* (context, values): Co<void> {
    find(context, values.device).setSpeed(values.speed);
  }),
  command("block-job-cancel", { device: "string", force: "boolean?" }, function* (context, values): Co<void> {
    yield* cancelJob(context, find(context, values.device), values.force === true);
  }),
  command("block-job-pause", { device: "string" }, function* (context, values): Co<void> {
    yield* pauseJob(context, find(context, values.device));
  }),
  command("block-job-resume", { device: "string" }, function* (context, values): Co<void> {
    yield* resumeJob(context, find(context, values.device));
  }),
  command("block-job-complete", { device: "string" }, function* (context, values): Co<void> {
    find(context, values.device).complete();
  }),
  command("block-job-finalize", { id: "string" }, function* (context, values): Co<void> {
    yield* find(context, values.id).finalize();
  }),
  command("block-job-dismiss", { id: "string" }, function* (context, values): Co<void> {
    find(context, values.id).dismiss();
  }),
];
