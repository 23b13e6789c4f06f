/**
 * Power cuts during every kind of change to an image: creation, allocation, discards, internal snapshots, resizing, and
 * emptying as a commit does, with counts that are kept true and with lazy ones. The states are prefixes of what was written
 * and any legal part of it, and are different from each other. `SPINDLE_LONG=1` looks at 20,000.
 */
import { isBlockError, SeededRandom } from "@spindle/base";
import type { BlockNode } from "@spindle/block";
import { crashStates, MemoryDriver, RecordedDriver, randomBytes } from "@spindle/testkit";
import { peer } from "@spindle/testkit/peers";
import { afterAll, describe, expect, it } from "vitest";
import { checkHere } from "./check-both.ts";
import { contentOf, createQcow2, openQcow2, readBytes, run, writeBytes } from "./open-image.ts";
import { QemuImages } from "./qemu-images.ts";

const STATES = process.env["SPINDLE_LONG"] === undefined ? 200 : 20_000;
const STATES_EACH = 40;
/** One of so many states is shown to qemu-img, too, which takes longer than ours. */
const QEMU_SHARE = 40;

const SIZE = 1024 * 1024;
const STEPS = 30;

const images = new QemuImages();
afterAll(() => images.remove());

interface History {
  readonly file: RecordedDriver;
  /** When the image was there, in the log's timeline. */
  readonly created: number;
  readonly lazy: boolean;
  readonly name: string;
}

/** A new image, random changes to it, and every write to its file. */
function record(seed: number): History {
  const random = new SeededRandom(seed);
  const clusterSize = random.pick(["512", "4k", "64k"]);
  const lazy = random.chance(0.4);
  const file = new RecordedDriver(0);
  createQcow2(file, SIZE, { cluster_size: clusterSize, lazy_refcounts: lazy ? "on" : "off" });
  run(file.flush());
  const created = file.log.timeline.now;
  const node = openQcow2(file);
  for (let step = 0; step < STEPS; step++) change(node, random);
  run(node.driver.close());
  return { file, created, lazy, name: `seed ${seed}, ${clusterSize} clusters, ${lazy ? "lazy" : "eager"}` };
}

function change(node: BlockNode, random: SeededRandom): void {
  const offset = random.below(node.length / 512) * 512;
  const length = Math.min(node.length - offset, (1 + random.below(200)) * 512);
  const kind = random.below(20);
  if (kind < 8) writeBytes(node, offset, randomBytes(random, length));
  else if (kind < 10) run(node.writeZeroes(offset, length, { mayUnmap: random.chance(0.5) }));
  else if (kind < 12) run(node.discard(offset, length));
  else if (kind < 14) run(node.flush());
  else if (kind < 17) changeSnapshots(node, random);
  else if (kind < 19) attempt(() => run(node.truncate(SIZE / 2 + random.below(SIZE / 512) * 512)));
  else attempt(() => run(node.exclusively(() => node.driver.makeEmpty!())));
}

function changeSnapshots(node: BlockNode, random: SeededRandom): void {
  const snapshots = node.driver.snapshots!;
  const there = snapshots.list();
  const { id } = there.length === 0 ? { id: undefined } : random.pick(there);
  const kind = random.below(3);
  if (id === undefined || (kind === 0 && there.length < 4)) attempt(() => run(snapshots.create("kept", 1, 0)));
  else attempt(() => run(kind === 1 ? snapshots.apply(id) : snapshots.remove(id)));
}

/** Not everything can be done at any time: an image with snapshots may refuse to be emptied, or to change its length. */
function attempt(action: () => void): void {
  try {
    action();
  } catch (error) {
    if (!isBlockError(error, "ENOTSUP")) throw error;
  }
}

/** What is wrong beyond leaks. A count that is too high is a leak, too, where an entry says that it is 1. */
function errors(lines: readonly string[]): string[] {
  return lines.filter((line) => line.startsWith("ERROR") && !line.startsWith("ERROR OFLAG_COPIED"));
}

function judge(bytes: Uint8Array, { lazy, name }: History, description: string, withQemu: boolean): void {
  const said = `${name}: ${description}`;
  const found = checkHere(bytes);
  expect(found.numbers, `${said}: ${found.lines[0]}`).toBeDefined();
  const isDirty = bytes[79] === 1;
  expect(isDirty && !lazy, said).toBe(false);
  if (!isDirty) expect(errors(found.lines), said).toEqual([]);
  const image = openQcow2(new MemoryDriver(bytes), { readOnly: true });
  readBytes(image, 0, image.length);
  const repaired = checkHere(bytes, "all").bytes;
  expect(checkHere(repaired).lines, said).toEqual([]);
  if (withQemu) images.put("state.qcow2", repaired);
  if (withQemu) expect(images.check("state.qcow2"), said).toMatchObject({ code: 0 });
}

describe.skipIf(peer("qemu-img") === undefined)("an image whose host loses power while it changes", () => {
  it("is never corrupt where counts are kept true, and always clean after one repair", { timeout: 3_600_000 }, () => {
    const seen = new Set<string>();
    for (let seed = 1; seen.size < STATES; seed++) {
      const history = record(seed);
      const { log } = history.file;
      for (const { image, time, description } of crashStates(log, new SeededRandom(seed), STATES_EACH)) {
        const hash = image.contentHash();
        if (seen.has(hash)) continue;
        seen.add(hash);
        // Before creation has ended there may be no image yet.
        if (time > history.created) judge(contentOf(image), history, description, seen.size % QEMU_SHARE === 0);
        else attemptToOpen(contentOf(image));
      }
    }
    expect(seen.size).toBeGreaterThanOrEqual(STATES);
  });
});

/** Half an image is refused, or is a whole one. */
function attemptToOpen(bytes: Uint8Array): void {
  let node: BlockNode;
  try {
    node = openQcow2(new MemoryDriver(bytes), { readOnly: true });
  } catch (error) {
    expect(isBlockError(error)).toBe(true);
    return;
  }
  expect(readBytes(node, 0, node.length).every((byte) => byte === 0)).toBe(true);
}
