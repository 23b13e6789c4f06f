/**
 * Judges images that are opened again: the one that was closed in order, and those that a loss of power could have left
 * behind. Each must open, be consistent, and hold what was durable; what it leaks must be found and given back.
 */
import { type Co, SeededRandom, SyncRunner } from "@spindle/base";
import { chainOf, IoVector } from "@spindle/block";
import { type DurabilityModel, randomCrashStates, type SparseBytes } from "@spindle/testkit";
import { type ImageChain, imageOptions, openGraph, TOP_FILE } from "./image-chain.ts";
import { checkQcow2 } from "./qcow2-check.ts";
import type { Log, SimulatedStorage } from "./storage.ts";

export interface JudgedImages {
  readonly storage: SimulatedStorage;
  readonly chain: ImageChain;
  readonly model: DurabilityModel;
  readonly random: SeededRandom;
  /** The last stream has left the image without a backing file. */
  readonly flattened: boolean;
  /** Requests have failed on the way, and may have left clusters behind. */
  readonly leaksAllowed: boolean;
  readonly crashStates: number;
  readonly log: Log | undefined;
}

/** @returns the number of crash states. @throws {Error} with what is wrong. */
export function checkReopened(images: JudgedImages): number {
  const { storage, model, random, flattened, leaksAllowed } = images;
  const closed = storage.content(TOP_FILE);
  const { leaks } = requireConsistent(closed, "after closing");
  if (leaks > 0 && !leaksAllowed) throw new Error(`after closing: ${leaks} leaked clusters`);
  const reopened = readDisk(storage.with(TOP_FILE, closed), { reclaim: false });
  if (flattened && reopened.layers !== 1)
    throw new Error("the stream was complete, and the image names a backing file");
  const mismatch = model.readMismatch(0, reopened.bytes, model.timeline.next());
  if (mismatch !== undefined) throw new Error(`after reopening: ${mismatch}`);
  let count = 0;
  for (const { image, time, description } of randomCrashStates(storage.writeLog, random, images.crashStates)) {
    count += 1;
    images.log?.(`power lost at ${time}: ${description}`);
    try {
      judgeCrashState(images, image, time);
    } catch (error) {
      throw new Error(`power lost at ${time} with ${description}: ${messageOf(error)}`, { cause: error });
    }
  }
  return count;
}

/** @throws {Error} with what is wrong. */
export function judgeCrashState({ storage, model, random }: JudgedImages, image: SparseBytes, time: number): void {
  requireConsistent(image, "the image");
  const crashed = storage.with(TOP_FILE, image);
  const reclaim = random.chance(0.3);
  const { bytes } = readDisk(crashed, { reclaim });
  const mismatch = model.crashMismatch(0, bytes, time);
  if (mismatch !== undefined) throw new Error(mismatch);
  if (!reclaim) return;
  const { leaks } = requireConsistent(crashed.content(TOP_FILE), "after giving leaks back");
  if (leaks > 0) throw new Error(`${leaks} clusters are leaked even after giving leaks back`);
  const again = readDisk(crashed, { reclaim: false });
  if (Buffer.compare(bytes, again.bytes) !== 0) throw new Error("giving leaks back has changed the disk");
}

function requireConsistent(image: SparseBytes, when: string): { leaks: number } {
  const { leaks, corruptions } = checkQcow2(image.toBytes());
  if (corruptions.length > 0) throw new Error(`${when}: ${corruptions.slice(0, 5).join("; ")}`);
  return { leaks };
}

/** Opens the image as a program would that comes next, and reads all of it. */
function readDisk(
  storage: SimulatedStorage,
  { reclaim }: { readonly reclaim: boolean },
): { bytes: Uint8Array; layers: number } {
  const clock = { now: () => 0 };
  const graph = openGraph({ clock, random: new SeededRandom(0), storage });
  return new SyncRunner(clock).run(
    (function* (): Co<{ bytes: Uint8Array; layers: number }> {
      const options = { ...imageOptions({ filename: TOP_FILE, format: "qcow2" }), "read-only": !reclaim };
      const node = yield* graph.open(options);
      if (reclaim) yield* node.driver.reclaimLeaks?.() ?? nothing();
      const bytes = new Uint8Array(node.length);
      yield* node.read(0, IoVector.of(bytes));
      const layers = chainOf(node).length;
      yield* graph.close();
      return { bytes, layers };
    })(),
  );
}

function* nothing(): Co<void> {}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
