/**
 * The verbs whose effect a job shows at its next pause point. QEMU's jobs show it at once when they have no I/O in flight,
 * so that clients see its events before the reply; one that has does not hold up the reply for long.
 */
import { type Co, sleep } from "@spindle/base";
import type { Job } from "@spindle/jobs";
import type { CommandContext } from "./command.ts";

/** How long a reply waits for the effect. */
const EFFECT_WAIT_MS = 20;

type WithClock = Pick<CommandContext, "clock">;

export function* cancelJob({ clock }: WithClock, job: Job, force: boolean): Co<void> {
  job.cancel(force);
  yield* sleep(clock, EFFECT_WAIT_MS, () => job.over);
}

export function* pauseJob({ clock }: WithClock, job: Job): Co<void> {
  job.pause();
  yield* sleep(clock, EFFECT_WAIT_MS, () => job.status !== "running");
}

export function* resumeJob({ clock }: WithClock, job: Job): Co<void> {
  job.resume();
  yield* sleep(clock, EFFECT_WAIT_MS, () => job.status !== "paused");
}
