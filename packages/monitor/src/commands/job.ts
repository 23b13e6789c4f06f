/** Verbs and queries for jobs of every kind, by id. */
import { BlockError, type Co } from "@spindle/base";
import type { Job } from "@spindle/jobs";
import { type Command, type CommandContext, command } from "../command.ts";
import { cancelJob, pauseJob, resumeJob } from "../job-verbs.ts";

function find({ jobs }: CommandContext, id: string): Job {
  const job = jobs.find(id);
  if (job === undefined) throw new BlockError("ENOENT", "Job not found");
  return job;
}

export const jobCommands: readonly Command[] = [
  command("query-jobs", {}, function* ({ jobs }) {
    return jobs.queryJobs();
  }),
  command("job-cancel", { id: "string" }, function* (context, values): Co<void> {
    yield* cancelJob(context, find(context, values.id), true);
  }),
  command("job-pause", { id: "string" }, function* (context, values): Co<void> {
    yield* pauseJob(context, find(context, values.id));
  }),
  command("job-resume", { id: "string" }, function* (context, values): Co<void> {
    yield* resumeJob(context, find(context, values.id));
  }),
  command("job-complete", { id: "string" }, function* (context, values): Co<void> {
    find(context, values.id).complete();
  }),
  command("job-finalize", { id: "string" }, function* (context, values): Co<void> {
    yield* find(context, values.id).finalize();
  }),
  command("job-dismiss", { id: "string" }, function* (context, values): Co<void> {
    find(context, values.id).dismiss();
  }),
];
