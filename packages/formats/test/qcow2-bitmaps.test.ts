/** Persistent bitmaps: every write is marked in them, they live in the image, and QEMU agrees. */
import { spawnSync } from "node:child_process";
import { SeededRandom } from "@spindle/base";
import { type BlockNode, IoVector } from "@spindle/block";
import { crashStates, FaultyDriver, forEachSeed, MemoryDriver, RecordedDriver, randomBytes } from "@spindle/testkit";
import { peer } from "@spindle/testkit/peers";
import { afterAll, describe, expect, it } from "vitest";
import { contentOf, createQcow2, openQcow2, readBytes, run, writeBytes } from "./open-image.ts";
import { QemuImages, qemuImg, qemuIo } from "./qemu-images.ts";

const SIZE = 1024 * 1024;
const images = new QemuImages();
const qemuNbd = peer("qemu-nbd");
afterAll(() => images.remove());

/** The granules that a bitmap has marked, by number. */
function marked(node: BlockNode, name: string): number[] {
  const found: number[] = [];
  for (const { first, end } of run(node.bitmaps.find(name).bits()).runs())
    for (let bit = first; bit < end; bit++) found.push(bit);
  return found;
}

function touched(granularity: number, offset: number, length: number): number[] {
  const first = Math.floor(offset / granularity);
  const end = Math.ceil((offset + length) / granularity);
  return Array.from({ length: end - first }, (_, step) => first + step);
}

const sorted = (granules: Iterable<number>): number[] => [...granules].sort((one, other) => one - other);
const add = (node: BlockNode, name: string, granularity: number, enabled = true): void =>
  run(
    node.exclusively(function* () {
      node.bitmaps.add({ name, granularity, enabled, persistent: true });
    }),
  );

/** One request of any kind that changes the disk. */
function change(node: BlockNode, random: SeededRandom): { offset: number; length: number } {
  const { clusterSize } = node.driver;
  const offset = random.below(SIZE / 512 - 64) * 512;
  const length = (1 + random.below(63)) * 512;
  const cluster = offset - (offset % clusterSize);
  switch (random.below(5)) {
    case 0:
      run(node.writeZeroes(offset, length, { mayUnmap: random.chance(0.5) }));
      return { offset, length };
    case 1:
      run(node.discard(offset, length));
      return { offset, length };
    case 2:
      run(node.writeCompressed(cluster, IoVector.of(new Uint8Array(clusterSize).fill(offset))));
      return { offset: cluster, length: clusterSize };
    default:
      writeBytes(node, offset, randomBytes(random, length));
      return { offset, length };
  }
}

/** What QEMU's NBD server tells of a bitmap: granules as above. */
function markedByQemu(name: string, bitmap: string, granularity: number): number[] {
  const socket = images.path("bitmap.sock");
  const served = spawnSync(qemuNbd as string, ["--fork", "-k", socket, "-r", "-f", "qcow2", "-B", bitmap, name], {
    cwd: images.path("."),
    stdio: "ignore",
  });
  if (served.status !== 0) throw new Error(`qemu-nbd does not serve bitmap ${bitmap}`);
  const options = `driver=nbd,server.type=unix,server.path=${socket},x-dirty-bitmap=qemu:dirty-bitmap:${bitmap}`;
  const runs = JSON.parse(images.img("map", "--output=json", "--image-opts", options)) as {
    start: number;
    length: number;
    data: boolean;
  }[];
  return runs.filter(({ data }) => !data).flatMap(({ start, length }) => touched(granularity, start, length));
}

describe("persistent bitmaps", () => {
  it.each(["512", "4k", "64k"])(
    "mark what is written, and nothing else, over many openings (%s clusters)",
    async (cluster_size) => {
      await forEachSeed(6, (seed) => {
        const random = new SeededRandom(seed);
        const driver = new MemoryDriver();
        createQcow2(driver, SIZE, { cluster_size });
        const model = new Map<string, { granularity: number; enabled: boolean; granules: Set<number> }>();
        for (let opening = 0; opening < 6; opening++) {
          const node = openQcow2(driver);
          const granularity = 512 * 2 ** random.below(9);
          const enabled = random.chance(0.7);
          add(node, `b${opening}`, granularity, enabled);
          model.set(`b${opening}`, { granularity, enabled, granules: new Set() });
          for (let count = random.below(12); count > 0; count--) {
            const { offset, length } = change(node, random);
            for (const one of model.values())
              if (one.enabled)
                for (const granule of touched(one.granularity, offset, length)) one.granules.add(granule);
          }
          const name = random.pick([...model.keys()]);
          const chosen = model.get(name)!;
          run(
            node.exclusively(function* () {
              const source = random.pick([...model.keys()]);
              switch (random.below(4)) {
                case 0:
                  node.bitmaps.findUsable(name).clear();
                  return chosen.granules.clear();
                case 1:
                  node.bitmaps.findUsable(name).enabled = !chosen.enabled;
                  chosen.enabled = !chosen.enabled;
                  return;
                case 2: {
                  yield* node.bitmaps.merge(name, [{ bitmaps: node.bitmaps, name: source }]);
                  const from = model.get(source)!;
                  for (const granule of [...from.granules])
                    for (const one of touched(chosen.granularity, granule * from.granularity, from.granularity))
                      if (one * chosen.granularity < SIZE) chosen.granules.add(one);
                  return;
                }
                default:
                  yield* node.bitmaps.remove(name);
                  model.delete(name);
              }
            }),
          );
          run(node.driver.close());
          const reader = openQcow2(driver, { readOnly: true });
          expect(
            reader.bitmaps
              .list()
              .map((bitmap) => bitmap.name)
              .sort(),
          ).toEqual([...model.keys()].sort());
          for (const [key, { granules, enabled: isEnabled }] of model) {
            expect(marked(reader, key), key).toEqual(sorted(granules));
            expect(reader.bitmaps.find(key)).toMatchObject({ enabled: isEnabled, inconsistent: false });
          }
        }
        if (qemuImg === undefined) return;
        images.store("many.qcow2", driver);
        expect(images.check("many.qcow2")).toMatchObject({ code: 0 });
      });
    },
  );

  it("follow the disk's length: what is added is not marked, what was cut off is forgotten", () => {
    const driver = new MemoryDriver();
    createQcow2(driver, SIZE, {});
    const node = openQcow2(driver);
    add(node, "b", 4096);
    writeBytes(node, SIZE - 8192, new Uint8Array(8192));
    run(node.truncate(SIZE - 4096));
    run(node.truncate(3 * SIZE));
    run(node.driver.close());
    expect(marked(openQcow2(driver, { readOnly: true }), "b")).toEqual([SIZE / 4096 - 2]);
  });

  it("are in use while the image is open for writing, and inconsistent when it was not closed", () => {
    const driver = new MemoryDriver();
    createQcow2(driver, SIZE, {});
    const first = openQcow2(driver);
    add(first, "b", 65_536);
    run(first.driver.close());
    const killed = openQcow2(driver);
    writeBytes(killed, 0, new Uint8Array(512));
    const left = openQcow2(driver);
    expect(left.bitmaps.list()).toMatchObject([{ name: "b", inconsistent: true, enabled: false }]);
    expect(() => left.bitmaps.findUsable("b")).toThrow(/^Bitmap 'b' is inconsistent and cannot be used$/);
    expect(() => run(left.truncate(2 * SIZE))).toThrow(/inconsistent/);
    run(
      left.exclusively(function* () {
        yield* left.bitmaps.remove("b");
      }),
    );
    run(left.driver.close());
    expect(openQcow2(driver).bitmaps.list()).toEqual([]);
  });

  it("clear bits of unknown promises in the header, and keep their own", () => {
    const driver = new MemoryDriver();
    createQcow2(driver, SIZE, {});
    const node = openQcow2(driver);
    add(node, "b", 65_536);
    run(node.driver.close());
    const bytes = contentOf(driver.content);
    bytes[88] = 0x40;
    const opened = new MemoryDriver(bytes);
    run(openQcow2(opened).driver.close());
    expect([...contentOf(opened.content).subarray(88, 96)]).toEqual([0, 0, 0, 0, 0, 0, 0, 1]);
  });

  it("that another program has not kept up are not listed, and give way to new ones", () => {
    const driver = new MemoryDriver();
    createQcow2(driver, SIZE, {});
    const node = openQcow2(driver);
    add(node, "old", 65_536);
    run(node.driver.close());
    const bytes = contentOf(driver.content);
    bytes[95] = 0;
    const stale = new MemoryDriver(bytes);
    const opened = openQcow2(stale);
    expect(opened.bitmaps.list()).toEqual([]);
    add(opened, "new", 65_536);
    run(opened.driver.close());
    expect(openQcow2(stale, { readOnly: true }).bitmaps.list()).toMatchObject([{ name: "new" }]);
  });

  it("of an image that nobody can be sure of are refused at once", () => {
    const driver = new MemoryDriver();
    createQcow2(driver, SIZE, { compat: "0.10" });
    expect(() => add(openQcow2(driver), "b", 65_536)).toThrow(/Cannot store dirty bitmaps in qcow2 v2 files/);
  });

  it("stay in use when they cannot be stored, and the disk keeps what was written", () => {
    for (let nth = 1; ; nth++) {
      const memory = new MemoryDriver();
      createQcow2(memory, SIZE, { cluster_size: "4k" });
      const first = openQcow2(memory);
      add(first, "b", 4096);
      run(first.driver.close());
      const faulty = new FaultyDriver(memory);
      const node = openQcow2(faulty);
      writeBytes(node, 0, new Uint8Array(100_000).fill(7));
      run(node.flush());
      faulty.fail({ nth, operations: ["write", "flush", "read"], code: "EIO" });
      let failed = false;
      try {
        run(node.driver.close());
      } catch {
        failed = true;
      }
      const after = openQcow2(memory, { readOnly: true });
      expect(readBytes(after, 0, 100_000)).toEqual(new Uint8Array(100_000).fill(7));
      const { inconsistent } = after.bitmaps.find("b");
      if (!inconsistent) expect(marked(after, "b")).toEqual(touched(4096, 0, 100_000));
      if (!failed) return expect(inconsistent).toBe(false);
    }
  });
});

describe.skipIf(qemuImg === undefined)("persistent bitmaps after a power cut", () => {
  it.each(["64k", "4k", "512"])("are in use, or have marked all that differs (%s clusters)", (cluster_size) => {
    const random = new SeededRandom(cluster_size.length);
    const empty = new MemoryDriver();
    // With a backing file's name, the header has no room for the extension without moving the name.
    createQcow2(empty, SIZE, { cluster_size }, { filename: "a-base-of-zeros", format: "raw" });
    const file = new RecordedDriver(empty.content);
    let node = openQcow2(file);
    add(node, "b0", 4096);
    run(node.driver.close());
    node = openQcow2(file);
    add(node, "b1", 512);
    for (let count = 0; count < 15; count++) change(node, random);
    run(node.driver.close());
    node = openQcow2(file);
    for (let count = 0; count < 15; count++) change(node, random);
    run(
      node.exclusively(function* () {
        yield* node.bitmaps.remove("b1");
      }),
    );
    run(node.driver.close());
    let consistent = 0;
    for (const state of crashStates(file.log, random, 40)) {
      const bytes = contentOf(state.image);
      images.put("crash.qcow2", bytes);
      // Its backing file does not matter to a check.
      const options = "driver=qcow2,backing=,file.filename=crash.qcow2";
      const { code, stdout, stderr } = images.tryImg("check", "--image-opts", options);
      expect([0, 3], `${state.description}\n${stdout}${stderr}`).toContain(code);
      const opened = openQcow2(new MemoryDriver(bytes), { readOnly: true });
      const disk = readBytes(opened, 0, SIZE);
      const [b0] = opened.bitmaps.list();
      if (b0 === undefined || b0.inconsistent) continue;
      consistent += 1;
      const found = new Set(marked(opened, "b0"));
      for (let granule = 0; granule < SIZE / 4096; granule++)
        if (disk.subarray(granule * 4096, (granule + 1) * 4096).some((byte) => byte !== 0))
          expect(found.has(granule), `${state.description}: granule ${granule}`).toBe(true);
    }
    expect(consistent).toBeGreaterThan(3);
  });
});

describe.skipIf(qemuImg === undefined || qemuIo === undefined || qemuNbd === undefined)("bitmaps and QEMU", () => {
  it("are the same bits to both, whoever wrote them", { timeout: 60_000 }, () => {
    images.img("create", "-q", "-f", "qcow2", "both.qcow2", "1M");
    images.img("bitmap", "--add", "-g", "4k", "both.qcow2", "b0");
    images.io("both.qcow2", "write -P 1 12k 9k", "write -z 512k 64k");
    let driver = images.load("both.qcow2");
    let node = openQcow2(driver);
    const expected = new Set([...touched(4096, 12 * 1024, 9 * 1024), ...touched(4096, 512 * 1024, 64 * 1024)]);
    expect(marked(node, "b0")).toEqual(sorted(expected));
    add(node, "b1", 65_536);
    writeBytes(node, 300_000, new Uint8Array(1000));
    for (const granule of touched(4096, 300_000, 1000)) expected.add(granule);
    run(node.driver.close());
    images.store("both.qcow2", driver);
    expect(images.check("both.qcow2").code).toBe(0);
    expect(markedByQemu("both.qcow2", "b0", 4096)).toEqual(sorted(expected));
    expect(markedByQemu("both.qcow2", "b1", 65_536)).toEqual(touched(65_536, 300_000, 1000));
    images.io("both.qcow2", "write -P 3 0 512");
    images.img("bitmap", "--merge", "b0", "both.qcow2", "b1");
    images.img("bitmap", "--remove", "both.qcow2", "b0");
    driver = images.load("both.qcow2");
    node = openQcow2(driver);
    expect(marked(node, "b1")).toEqual([0, 4, 8]);
    run(node.driver.close());
    images.store("both.qcow2", driver);
    expect(images.check("both.qcow2").code).toBe(0);
    expect(markedByQemu("both.qcow2", "b1", 65_536)).toEqual([0, 4, 8]);
  });

  it("stand where QEMU puts them", () => {
    for (const name of ["theirs.qcow2", "ours.qcow2"]) images.img("create", "-q", "-f", "qcow2", name, "1M");
    images.img("bitmap", "--add", "theirs.qcow2", "b0");
    images.io("theirs.qcow2", "write -P 1 0 200k");
    images.img("bitmap", "--add", "--disable", "-g", "32k", "theirs.qcow2", "b1");
    images.io("theirs.qcow2", "write -P 1 100k 200k");
    const driver = images.load("ours.qcow2");
    let node = openQcow2(driver);
    add(node, "b0", 65_536);
    run(node.driver.close());
    node = openQcow2(driver);
    writeBytes(node, 0, new Uint8Array(200 * 1024).fill(1));
    run(node.driver.close());
    node = openQcow2(driver);
    add(node, "b1", 32_768, false);
    run(node.driver.close());
    node = openQcow2(driver);
    writeBytes(node, 100 * 1024, new Uint8Array(200 * 1024).fill(1));
    run(node.driver.close());
    const theirs = images.bytes("theirs.qcow2");
    const ours = contentOf(driver.content);
    expect(ours.length).toBe(theirs.length);
    expect(Buffer.compare(ours.subarray(0, 4096), theirs.subarray(0, 4096))).toBe(0);
  });
});
