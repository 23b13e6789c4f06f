/** Internal snapshots: what they keep, what they cost in counts, and that QEMU agrees. */
import { SeededRandom } from "@spindle/base";
import { type BlockNode, type InternalSnapshots, IoVector } from "@spindle/block";
import { crashStates, FaultyDriver, forEachSeed, MemoryDriver, RecordedDriver, randomBytes } from "@spindle/testkit";
import { afterAll, describe, expect, it } from "vitest";
import { contentOf, createQcow2, openQcow2, readBytes, run, writeBytes } from "./open-image.ts";
import { QemuImages, qemuImg } from "./qemu-images.ts";

const SIZE = 512 * 1024;
const images = new QemuImages();
afterAll(() => images.remove());

function snapshotsOf(node: BlockNode): InternalSnapshots {
  return node.driver.snapshots as InternalSnapshots;
}

const create = (node: BlockNode, name: string): void =>
  run(node.exclusively(() => snapshotsOf(node).create(name, 1_700_000_000, 5)));
const apply = (node: BlockNode, id: string): void => run(node.exclusively(() => snapshotsOf(node).apply(id)));
const remove = (node: BlockNode, id: string): void => run(node.exclusively(() => snapshotsOf(node).remove(id)));

/** Writes, zeroes, discards, compresses and resizes at random, and does the same to the bytes. */
function change(node: BlockNode, bytes: Uint8Array, random: SeededRandom): Uint8Array {
  const offset = random.below(bytes.length / 512) * 512;
  const length = Math.min(bytes.length - offset, (1 + random.below(40)) * 512);
  switch (random.below(5)) {
    case 0:
      run(node.writeZeroes(offset, length, { mayUnmap: random.below(2) === 0 }));
      bytes.fill(0, offset, offset + length);
      return bytes;
    case 1: {
      const { clusterSize } = node.driver;
      const cluster = Math.floor(offset / clusterSize) * clusterSize;
      const packed = new Uint8Array(Math.min(clusterSize, bytes.length - cluster)).fill(random.u32());
      if (cluster + packed.length < bytes.length) run(node.writeCompressed(cluster, new IoVector([packed])));
      else writeBytes(node, cluster, packed);
      bytes.set(packed, cluster);
      return bytes;
    }
    case 2: {
      const longer = bytes.length + (random.below(9) - 4) * 8192;
      if (longer < SIZE / 2) return bytes;
      run(node.truncate(longer));
      const resized = new Uint8Array(longer);
      resized.set(bytes.subarray(0, longer));
      return resized;
    }
    default: {
      const data = randomBytes(random, length);
      writeBytes(node, offset, data);
      bytes.set(data, offset);
      return bytes;
    }
  }
}

describe.skipIf(qemuImg === undefined)("internal snapshots", () => {
  it.each([
    ["clusters of 512 bytes", { cluster_size: "512" }],
    ["clusters of 4 KiB", { cluster_size: "4k" }],
    ["clusters of 4 KiB with counts of 64 bits", { cluster_size: "4k", refcount_bits: "64" }],
  ])("keep what the disk was, in any order, and leave nothing behind: %s", async (_what, options) => {
    await forEachSeed(6, (seed) => {
      const random = new SeededRandom(seed);
      const driver = new MemoryDriver();
      createQcow2(driver, SIZE, options);
      let node = openQcow2(driver);
      let bytes: Uint8Array = new Uint8Array(SIZE);
      const kept = new Map<string, Uint8Array>();
      for (let step = 0; step < 30; step++) {
        for (let count = random.below(6); count > 0; count--) bytes = change(node, bytes, random);
        const ids = [...kept.keys()];
        const id = ids[random.below(Math.max(1, ids.length))];
        const kind = random.below(4);
        if (kind < 2) {
          create(node, `step ${step}`);
          kept.set((snapshotsOf(node).list().at(-1) as { id: string }).id, bytes.slice());
        } else if (kind === 2 && id !== undefined) {
          apply(node, id);
          bytes = (kept.get(id) as Uint8Array).slice();
        } else if (id !== undefined) {
          remove(node, id);
          kept.delete(id);
        }
        expect(node.length).toBe(bytes.length);
        expect(Buffer.compare(readBytes(node, 0, bytes.length), bytes), `step ${step}`).toBe(0);
        if (random.below(3) === 0) {
          run(node.driver.close());
          node = openQcow2(driver);
        }
      }
      expect(
        snapshotsOf(node)
          .list()
          .map(({ id }) => id),
      ).toEqual([...kept.keys()]);
      run(node.driver.close());
      images.store("image.qcow2", driver);
      expect(images.check("image.qcow2")).toMatchObject({ code: 0 });
      expect(Buffer.compare(images.disk("image.qcow2"), bytes)).toBe(0);
      for (const [id, content] of kept) {
        // qemu-img converts as much of a snapshot as the disk is long now.
        const disk = images.disk("image.qcow2", "-l", `snapshot.id=${id}`);
        const length = Math.min(disk.length, content.length);
        expect(Buffer.compare(disk.subarray(0, length), content.subarray(0, length)), id).toBe(0);
      }
    });
  });

  it("are those that qemu-img makes, and the other way round", () => {
    images.img("create", "-q", "-f", "qcow2", "theirs.qcow2", "1M");
    images.io("theirs.qcow2", "write -P 1 0 200k");
    images.img("snapshot", "-c", "one", "theirs.qcow2");
    images.io("theirs.qcow2", "write -P 2 0 100k");
    const driver = images.load("theirs.qcow2");
    const node = openQcow2(driver);
    expect(snapshotsOf(node).list()).toMatchObject([{ id: "1", name: "one", machineStateSize: 0 }]);
    create(node, "two");
    apply(node, "1");
    expect(readBytes(node, 0, 1)).toEqual(Uint8Array.of(1));
    run(node.driver.close());
    images.store("ours.qcow2", driver);
    expect(images.check("ours.qcow2").code).toBe(0);
    expect(images.img("snapshot", "-l", "ours.qcow2")).toMatch(/^1 +one .*\n2 +two .* 2023-11-1\d /m);
    images.img("snapshot", "-a", "2", "ours.qcow2");
    images.img("snapshot", "-d", "one", "ours.qcow2");
    images.io("ours.qcow2", "read -P 2 0 100k", "read -P 1 100k 100k");
    expect(images.check("ours.qcow2").code).toBe(0);
  });

  it("are refused when counts have no room, and leave nothing but the place of a table leaked, as in QEMU", () => {
    const driver = new MemoryDriver();
    createQcow2(driver, SIZE, { cluster_size: "4k", refcount_bits: "1" });
    const node = openQcow2(driver);
    writeBytes(node, 0, new Uint8Array(20_000).fill(3));
    expect(() => create(node, "one")).toThrow(expect.objectContaining({ code: "EINVAL" }));
    expect(snapshotsOf(node).list()).toEqual([]);
    writeBytes(node, 0, new Uint8Array(20_000).fill(4));
    run(node.driver.close());
    images.store("narrow.qcow2", driver);
    const leaksOnly = 3;
    expect(images.check("narrow.qcow2").code).toBe(leaksOnly);
  });

  it("leave the disk readable, and every snapshot of before, when the file fails at any request", () => {
    for (let nth = 1; ; nth++) {
      const memory = new MemoryDriver();
      createQcow2(memory, SIZE, { cluster_size: "4k" });
      const sound = openQcow2(memory);
      writeBytes(sound, 0, new Uint8Array(50_000).fill(1));
      create(sound, "one");
      writeBytes(sound, 0, new Uint8Array(30_000).fill(2));
      run(sound.driver.close());
      const faulty = new FaultyDriver(memory);
      const node = openQcow2(faulty);
      faulty.fail({ nth, code: "EIO" });
      for (const step of [() => create(node, "two"), () => apply(node, "1"), () => remove(node, "1")]) {
        try {
          step();
        } catch {
          break;
        }
      }
      if (faulty.failures === 0) break;
      // As after a crash: what was not written is lost.
      const again = openQcow2(memory, { readOnly: true });
      expect([1, 2], `failure ${nth}`).toContain(readBytes(again, 0, 1)[0]);
      images.store("failed.qcow2", memory);
      for (const { id } of snapshotsOf(again).list()) {
        const content = images.disk("failed.qcow2", "-U", "-l", `snapshot.id=${id}`);
        expect([id, content[0], content[40_000]], `failure ${nth}`).toEqual([id, id === "1" ? 1 : 2, 1]);
      }
    }
  });

  it("survive a power cut at any point: content as before or after, and nothing that a repair does not mend", () => {
    const empty = new MemoryDriver();
    createQcow2(empty, SIZE, { cluster_size: "4k" });
    const file = new RecordedDriver(empty.content);
    const node = openQcow2(file);
    writeBytes(node, 0, new Uint8Array(50_000).fill(1));
    create(node, "one");
    writeBytes(node, 0, new Uint8Array(30_000).fill(2));
    create(node, "two");
    apply(node, "1");
    remove(node, "1");
    run(node.driver.close());
    let listed = 0;
    for (const state of crashStates(file.log, new SeededRandom(1), 25)) {
      const bytes = contentOf(state.image);
      const image = openQcow2(new MemoryDriver(bytes), { readOnly: true });
      const [first] = readBytes(image, 0, 1);
      expect([0, 1, 2], state.description).toContain(first);
      const snapshots = snapshotsOf(image).list();
      listed += snapshots.length;
      images.put("cut.qcow2", bytes);
      const { text } = images.check("cut.qcow2");
      const errors = text.split("\n").filter((line) => line.startsWith("ERROR"));
      expect(
        errors.filter((line) => !line.startsWith("ERROR OFLAG_COPIED")),
        state.description,
      ).toEqual([]);
      images.repair("cut.qcow2");
      expect(images.check("cut.qcow2").code, state.description).toBe(0);
      expect(images.disk("cut.qcow2")[0], state.description).toBe(first);
      for (const { id } of snapshots) {
        const content = images.disk("cut.qcow2", "-l", `snapshot.id=${id}`);
        expect([content[0], content[40_000]], `${state.description}: ${id}`).toEqual([Number(id), 1]);
      }
    }
    expect(listed).toBeGreaterThan(0);
  });
});
