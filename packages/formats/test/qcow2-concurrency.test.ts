import { type Co, type Runner, SeededRandom } from "@spindle/base";
import { BlockNode, type Children, IoVector, type WriteFlags } from "@spindle/block";
import { nodeCodecs } from "@spindle/host-node";
import { RangeLock } from "@spindle/shared-memory";
import {
  crashStates,
  DurabilityModel,
  MemoryDriver,
  type ObservableDisk,
  ObservedDisk,
  RecordedDriver,
  randomBytes,
  SimulatedRunner,
  type SparseBytes,
  seeds,
} from "@spindle/testkit";
import { describeDriver } from "@spindle/testkit/driver-conformance";
import { afterAll, describe, expect, it } from "vitest";
import { qcow2Format } from "../src/index.ts";
import { createQcow2, environment, fileNode, openQcow2, readBytes, thread } from "./open-image.ts";
import { QemuImages, qemuImg } from "./qemu-images.ts";

const images = new QemuImages();
afterAll(() => images.remove());

/** Opens an image on the simulated runner, so that the file's requests take their time. */
function* openOn(file: MemoryDriver): Co<BlockNode> {
  const children: Children = { file: fileNode(file), backing: null };
  const tracker = new RangeLock(RangeLock.create({ slots: 256 }), thread);
  const request = { nodeName: "image", options: {}, children, readOnly: false, inFlight: tracker };
  const driver = yield* qcow2Format.open({ ...request, environment: { ...environment, codecs: nodeCodecs } });
  return new BlockNode({ name: "image", driver, children, readOnly: false, tracker });
}

describe.each([
  ["512", "off"],
  ["4k", "off"],
  ["64k", "off"],
  ["16k", "on"],
])("with clusters of %s, subclusters %s", (cluster_size, extended_l2) => {
  describeDriver(`qcow2, clusters of ${cluster_size}, subclusters ${extended_l2}`, () => {
    const runner = new SimulatedRunner(1);
    const files = new WeakMap<object, MemoryDriver>();
    function* open(file: MemoryDriver) {
      const { driver } = yield* openOn(file);
      files.set(driver, file);
      return driver;
    }
    return {
      *open(length) {
        const file = new MemoryDriver();
        createQcow2(file, length, { cluster_size, extended_l2 });
        return yield* open(file);
      },
      *reopen(closed) {
        return yield* open(files.get(closed)!);
      },
      run: (co) => runner.run(co),
    };
  });
});

const SIZE = 512 * 1024;

/** A disk whose writes of single clusters are compressed now and then. */
function compressing(node: BlockNode, random: SeededRandom): ObservableDisk {
  const { clusterSize } = node.driver;
  return {
    read: (offset: number, vector: IoVector) => node.read(offset, vector),
    write: (offset: number, vector: IoVector, flags?: WriteFlags) => {
      const isCluster = offset % clusterSize === 0 && vector.length === clusterSize;
      return isCluster && random.chance(0.7) ? node.writeCompressed(offset, vector) : node.write(offset, vector, flags);
    },
    writeZeroes: (offset: number, length: number, flags?: WriteFlags) => node.writeZeroes(offset, length, flags),
    discard: (offset: number, length: number) => node.discard(offset, length),
    flush: () => node.flush(),
  };
}

function* guest(disk: ObservedDisk, clusterSize: number, random: SeededRandom, requests: number): Co<void> {
  for (let request = 0; request < requests; request++) {
    const offset = random.below(SIZE / 512) * 512;
    const length = (1 + random.below(Math.min(60, (SIZE - offset) / 512))) * 512;
    const kind = random.below(20);
    if (kind < 5) yield* disk.read(offset, length);
    else if (kind < 10) yield* disk.write(offset, randomBytes(random, length));
    else if (kind < 13) {
      const at = offset - (offset % clusterSize);
      yield* disk.write(at, new Uint8Array(clusterSize).fill(1 + random.below(255)));
    } else if (kind < 16) yield* disk.writeZeroes(offset, length, { mayUnmap: random.chance(0.5) });
    else if (kind < 18) yield* disk.discard(offset, length);
    else yield* disk.flush();
  }
}

interface Setting {
  readonly what: string;
  readonly options: Record<string, string>;
}

const SETTINGS: readonly Setting[] = [
  { what: "64 KiB clusters", options: {} },
  { what: "4 KiB clusters, counts of 8 bits", options: { cluster_size: "4k", refcount_bits: "8" } },
  { what: "512-byte clusters, counts of 1 bit", options: { cluster_size: "512", refcount_bits: "1" } },
  { what: "subclusters", options: { cluster_size: "16k", extended_l2: "on" } },
  { what: "version 2", options: { cluster_size: "8k", compat: "0.10" } },
];

function spawnGuests(runner: Runner, disk: ObservedDisk, clusterSize: number, random: SeededRandom): () => number {
  let running = 8;
  const failed = (error: unknown): void => {
    if (error !== undefined) throw error;
    running -= 1;
  };
  for (let index = 0; index < 8; index++)
    runner.spawn(guest(disk, clusterSize, new SeededRandom(random.u32()), 40), failed);
  return () => running;
}

function judge(content: SparseBytes, description: string): void {
  images.put("state.qcow2", content.toBytes());
  const { code, text } = images.check("state.qcow2");
  expect([0, 3], `${description}\n${text}`).toContain(code);
}

describe.skipIf(qemuImg === undefined).each(SETTINGS)("requests that run side by side ($what)", ({ options }) => {
  it.each(seeds(2))(
    "read what they must, and a power cut leaves a sound image with all that was flushed (seed %i)",
    (seed) => {
      const empty = new MemoryDriver();
      createQcow2(empty, SIZE, options);
      const file = new RecordedDriver(empty.content);
      const runner = new SimulatedRunner(seed);
      const random = new SeededRandom(seed);
      const node = runner.run(openOn(file));
      const model = new DurabilityModel(SIZE, file.log.timeline);
      const disk = new ObservedDisk(compressing(node, random), model);
      const running = spawnGuests(runner, disk, node.driver.clusterSize, random);
      runner.runUntil(() => running() === 0);
      runner.run(disk.read(0, SIZE));
      for (const state of crashStates(file.log, random, 12)) {
        judge(state.image, state.description);
        const image = openQcow2(new MemoryDriver(state.image), { readOnly: true });
        expect(model.crashMismatch(0, readBytes(image, 0, SIZE), state.time)).toBeUndefined();
      }
      runner.run(node.driver.close());
      images.put("state.qcow2", file.content.toBytes());
      expect(images.check("state.qcow2")).toMatchObject({ code: 0 });
    },
  );
});

describe("tables in memory", () => {
  it.each(seeds(3))("are bounded, and right when they have been pushed out and read again (seed %i)", (seed) => {
    // One L2 table of 2 MiB maps 512 GiB, and 16 of them are kept.
    const stride = 512 * 2 ** 30;
    const count = 48;
    const users = 12;
    const file = new MemoryDriver();
    createQcow2(file, stride * count, { cluster_size: "2M" });
    const runner = new SimulatedRunner(seed);
    const node = runner.run(openOn(file));
    const written = new Map<number, Uint8Array>();
    function* use(first: number, random: SeededRandom): Co<void> {
      for (let round = 0; round < 25; round++) {
        const index = first + users * random.below(count / users);
        const bytes = written.get(index) ?? new Uint8Array(600);
        const found = new Uint8Array(600).fill(0xee);
        yield* node.read(index * stride + 7, IoVector.of(found));
        expect(Buffer.compare(found, bytes)).toBe(0);
        if (random.chance(0.05)) yield* node.flush();
        if (random.chance(0.5)) continue;
        const next = randomBytes(random, 600);
        yield* node.write(index * stride + 7, IoVector.of(next));
        written.set(index, next);
      }
    }
    let running = users;
    for (let user = 0; user < users; user++)
      runner.spawn(use(user, new SeededRandom(seed * users + user)), (error) => {
        if (error !== undefined) throw error;
        running -= 1;
      });
    runner.runUntil(() => running === 0);
    runner.run(node.driver.close());
    const again = openQcow2(file);
    for (const [index, bytes] of written) expect(readBytes(again, index * stride + 7, 600)).toEqual(bytes);
  });
});
