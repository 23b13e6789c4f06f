import { SeededRandom } from "@spindle/base";
import { IoVector } from "@spindle/block";
import { MemoryDriver, randomBytes, type SparseBytes, seeds } from "@spindle/testkit";
import { afterAll, describe, expect, it } from "vitest";
import { readHostile, writeHostile } from "./hostile-image.ts";
import { createQcow2, openQcow2, run, writeBytes } from "./open-image.ts";
import { QemuImages, qemuImg } from "./qemu-images.ts";

const images = new QemuImages();
afterAll(() => images.remove());

/** A small image with every kind of cluster. */
function makeImage(clusterSize: number, options: Record<string, string>): SparseBytes {
  const driver = new MemoryDriver();
  const size = 200 * clusterSize;
  createQcow2(driver, size, { cluster_size: String(clusterSize), ...options });
  const node = openQcow2(driver);
  const random = new SeededRandom(4);
  for (let cluster = 0; cluster < 200; cluster += 10)
    writeBytes(node, cluster * clusterSize, randomBytes(random, 3 * clusterSize));
  run(node.writeZeroes(0, 5 * clusterSize, { mayUnmap: false }));
  run(node.writeZeroes(50 * clusterSize, 4 * clusterSize, { mayUnmap: true }));
  for (let cluster = 5; cluster < 200; cluster += 20)
    run(node.writeCompressed(cluster * clusterSize, IoVector.of(new Uint8Array(clusterSize).fill(cluster))));
  run(node.driver.close());
  return driver.content;
}

const IMAGES = [
  makeImage(512, {}),
  makeImage(4096, {}),
  makeImage(4096, { compat: "0.10" }),
  makeImage(1024, { refcount_bits: "1" }),
];

/** Places of 8 bytes that hold metadata: the header, and every entry that is not zero of any table. */
function targets(content: SparseBytes): number[] {
  const view = new DataView(content.toBytes().buffer);
  const clusterSize = 2 ** view.getUint32(20);
  const places = Array.from({ length: 14 }, (_, index) => index * 8);
  const table = (offset: number, length: number): number[] => {
    const found: number[] = [];
    for (let at = offset; at + 8 <= Math.min(offset + length, view.byteLength); at += 8)
      if (view.getBigUint64(at) !== 0n) found.push(at);
    return found;
  };
  const next = (at: number): number => Number(view.getBigUint64(at) & 0x00fffffffffffe00n);
  const l1 = table(Number(view.getBigUint64(40)), view.getUint32(36) * 8);
  const blocks = table(Number(view.getBigUint64(48)), clusterSize);
  const l2 = l1.flatMap((at) => table(next(at), clusterSize));
  const counts = blocks.flatMap((at) => table(next(at), clusterSize));
  return [...places, ...l1, ...blocks, ...l2, ...l2, ...counts];
}

function mutate(content: SparseBytes, places: readonly number[], random: SeededRandom): SparseBytes {
  const mutant = content.clone();
  for (let change = 0; change < 1 + random.below(4); change++) {
    const at = random.pick(places);
    const kind = random.below(4);
    const bytes = new Uint8Array(8);
    content.read(at, bytes);
    if (kind === 0) bytes[random.below(8)] = random.below(256);
    else if (kind === 1) bytes[random.below(8)]! ^= 2 ** random.below(8);
    else if (kind === 2) content.read(random.pick(places), bytes);
    else bytes.fill(random.pick([0, 0xff]), random.below(8));
    mutant.write(at, bytes);
  }
  if (random.chance(0.05)) mutant.truncate(random.below(content.length));
  return mutant;
}

describe("a mutated qcow2 image", () => {
  it.each(seeds(4))("is read or refused, written or refused, and nothing else happens (seed %i)", (seed) => {
    const random = new SeededRandom(seed);
    const content = IMAGES[seed % IMAGES.length]!;
    const places = targets(content);
    let opened = 0;
    for (let round = 0; round < 500; round++) {
      const mutant = mutate(content, places, random);
      if (readHostile(mutant).opened) opened += 1;
      writeHostile(mutant);
      expect(mutant.length).toBeLessThan(2 ** 40);
    }
    expect(opened).toBeGreaterThan(100);
  });

  it.skipIf(qemuImg === undefined).each(seeds(1))(
    "holds what QEMU sees in it, where both can read it (seed %i)",
    (seed) => {
      const random = new SeededRandom(seed + 1000);
      let compared = 0;
      for (let round = 0; round < 100; round++) {
        const content = random.pick(IMAGES);
        const mutant = mutate(content, targets(content).slice(14), random);
        const ours = readHostile(mutant).content;
        if (ours === undefined) continue;
        images.put("mutant.qcow2", mutant.toBytes());
        let theirs: Uint8Array;
        try {
          theirs = images.disk("mutant.qcow2");
        } catch {
          continue;
        }
        expect(Buffer.compare(ours, theirs), `round ${round}`).toBe(0);
        compared += 1;
      }
      expect(compared).toBeGreaterThan(15);
    },
  );
});
