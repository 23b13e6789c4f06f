/**
 * One round on one disk: a fresh overlay, guests on threads of their own, and streams that are paused, slowed down,
 * cancelled and begun again while readers and copy workers are killed, until the chain is gone. Then everything is
 * verified, as the guests see it and once more after the image was opened again.
 */
import { rmSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { isBlockError, type SeededRandom } from "@spindle/base";
import type { BlockNode } from "@spindle/block";
import { type Job, startStream } from "@spindle/jobs";
import { createImage, type Session } from "spindle";
import { killCopyWorker } from "./copy-workers.ts";
import { DiskThreads } from "./disk-threads.ts";
import { openQcow2, wrongSectors } from "./stamped-disk.ts";

export interface RoundOptions {
  readonly session: Session;
  readonly random: SeededRandom;
  /** Tells this round's names from all others. */
  readonly name: string;
  readonly overlay: string;
  readonly backing: { readonly filename: string; readonly format: string };
  /** A raw file with the same content. */
  readonly base: string;
  readonly guests: number;
}

export interface RoundResult {
  readonly requests: number;
  readonly sectorsVerified: number;
  readonly wrong: readonly string[];
  readonly jobs: number;
  readonly readersKilled: number;
  readonly workersKilled: number;
}

/** Guests go on for so long before and after the stream. */
const REST_MS = 200;

const SPEEDS = [0, 0, 4_000_000, 40_000_000];

export async function soakRound(options: RoundOptions): Promise<RoundResult> {
  const { session, overlay, backing, random, guests, base, name } = options;
  await createImage(overlay, { format: "qcow2", backing });
  const node = await openQcow2(session, overlay, name);
  const states = DiskThreads.statesFor(node);
  const threads = new DiskThreads({ session, node, base, guests, seed: random.u32(), states });
  await Promise.all(Array.from({ length: guests }, (_, guest) => threads.startGuest(guest)));
  await delay(REST_MS);
  const streamed = await streamUntilDone(options, node, threads);
  await delay(REST_MS);
  const reports = await threads.stop();
  const wrong = reports.flatMap((report) => report.wrong);
  wrong.push(...(await session.run(wrongSectors({ node, states, guests, base }))));
  if (node.tracker?.inFlight().length !== 0) wrong.push("requests are in flight when all have ended");
  await session.run(session.graph.remove(name));
  const again = await openQcow2(session, overlay, name);
  if (again.driver.backingFile !== null) wrong.push("the image still names a backing file");
  wrong.push(...(await session.run(wrongSectors({ node: again, states, guests, base }))));
  await session.run(session.graph.remove(name));
  const total = (key: "requests" | "sectorsVerified"): number => reports.reduce((sum, report) => sum + report[key], 0);
  return { requests: total("requests"), sectorsVerified: total("sectorsVerified"), wrong, ...streamed };
}

/** Gives a round's image up. */
export function removeOverlay({ overlay }: Pick<RoundOptions, "overlay">): void {
  rmSync(overlay, { force: true });
}

async function streamUntilDone(
  { session, random, name }: RoundOptions,
  node: BlockNode,
  threads: DiskThreads,
): Promise<Pick<RoundResult, "jobs" | "readersKilled" | "workersKilled">> {
  const counts = { jobs: 0, readersKilled: 0, workersKilled: 0 };
  const context = { graph: session.graph, jobs: session.jobs, createCopier: session.createCopier };
  while (node.children.backing !== null) {
    counts.jobs += 1;
    const jobId = `${name}-${counts.jobs}`;
    const job = await session.run(startStream(context, { jobId, node, speed: random.pick(SPEEDS) }));
    const reading = random.chance(0.5);
    if (reading) await threads.startReader(random.u32());
    await disturb(session, job, random, counts.jobs < 3);
    if (random.chance(0.4) && (await killCopyWorker(random))) counts.workersKilled += 1;
    if (reading) {
      await threads.killReader();
      counts.readersKilled += 1;
    }
    await letEnd(session, job);
    if (job.failure !== undefined && !isBlockError(job.failure, "ECANCELED")) throw job.failure;
  }
  return counts;
}

async function disturb(session: Session, job: Job, random: SeededRandom, mayCancel: boolean): Promise<void> {
  for (let visits = random.below(6); visits > 0 && !job.over; visits--) {
    await delay(random.below(120));
    const verb = random.pick(["pause", "resume", "speed", "cancel"] as const);
    try {
      if (verb === "pause") job.pause();
      else if (verb === "resume") job.resume();
      else if (verb === "speed") job.setSpeed(random.pick(SPEEDS));
      else if (mayCancel && random.chance(0.4)) job.cancel();
    } catch (error) {
      // What the job's state does not allow is refused.
      if (!isBlockError(error, "EPERM")) throw error;
    }
  }
  session.runner.wake();
}

async function letEnd(session: Session, job: Job): Promise<void> {
  if (job.status === "running" || job.status === "paused") {
    job.setSpeed(0);
    if (job.pauseRequested) job.resume();
  }
  await session.run(job.ended());
}
