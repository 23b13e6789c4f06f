import { SeededRandom } from "@spindle/base";
import { chainStatus, IoVector } from "@spindle/block";
import { MemoryDriver, ModelDisk, randomBytes } from "@spindle/testkit";
import { describe, expect, it } from "vitest";
import { contentOf, createQcow2, openQcow2, readBytes, run, writeBytes } from "./open-image.ts";

const SIZE = 2 * 1024 * 1024;

function pattern(length: number, seed: number): Uint8Array {
  return randomBytes(new SeededRandom(seed), length);
}

/** A base image of which every fourth 64 KiB hold data, and the rest nothing. */
function makeBase(length: number) {
  const driver = new MemoryDriver();
  createQcow2(driver, length);
  const node = openQcow2(driver);
  for (let at = 0; at < length; at += 4 * 65_536) writeBytes(node, at, pattern(Math.min(65_536, length - at), at + 1));
  return node;
}

describe.each([
  ["512", "1.1"],
  ["4k", "1.1"],
  ["64k", "1.1"],
  ["2M", "1.1"],
  ["64k", "0.10"],
])("a qcow2 image with %s clusters, compat %s", (clusterSize, compat) => {
  it.each([
    ["without a backing file", 0],
    ["over a backing file", SIZE],
    ["over a shorter backing file", SIZE - 3 * 65_536 - 512],
    ["over a longer backing file", SIZE + 65_536],
  ])("keeps every byte of random requests %s, also when it is opened again", (_what, baseLength) => {
    const base = baseLength === 0 ? undefined : makeBase(baseLength);
    const driver = new MemoryDriver();
    const options = { cluster_size: clusterSize, compat };
    createQcow2(driver, SIZE, options, base && { filename: "base", format: "qcow2" });
    const open = () => openQcow2(driver, base === undefined ? {} : { backing: base });
    let node = open();
    const model = new ModelDisk(SIZE);
    if (base !== undefined) model.write(0, readBytes(base, 0, Math.min(SIZE, baseLength)));
    const random = new SeededRandom(baseLength + clusterSize.length);
    for (let round = 0; round < 150; round++) {
      const offset = random.below(SIZE);
      const length = 1 + random.below(Math.min(150_000, SIZE - offset));
      const kind = random.below(10);
      if (kind < 5) {
        const bytes = pattern(length, round);
        writeBytes(node, offset, bytes);
        model.write(offset, bytes);
      } else if (kind < 7) {
        run(node.writeZeroes(offset, length, { mayUnmap: random.chance(0.5) }));
        model.writeZeroes(offset, length);
      } else if (kind < 8) {
        run(node.discard(offset, length));
        model.discard(offset, length);
      } else if (kind < 9) run(node.flush());
      else {
        run(node.driver.close());
        node = open();
      }
      model.check(offset, readBytes(node, offset, length));
    }
    model.check(0, readBytes(node, 0, SIZE));
  });
});

describe("a qcow2 image", () => {
  it("says of each range whether it is allocated, zero, or left to the backing file, in runs that tile the disk", () => {
    const base = makeBase(SIZE);
    const driver = new MemoryDriver();
    createQcow2(driver, SIZE, {}, { filename: "base", format: "qcow2" });
    const node = openQcow2(driver, { backing: base });
    writeBytes(node, 65_536, pattern(65_536, 1));
    run(node.writeZeroes(2 * 65_536, 65_536, { mayUnmap: true }));
    function* walk() {
      const runs: string[] = [];
      for (let at = 0; at < SIZE; ) {
        const extent = yield* chainStatus(node, null, at, SIZE - at);
        runs.push(`${at / 65_536}+${extent.length / 65_536} ${extent.depth} ${extent.zero ? "zero" : "data"}`);
        at += extent.length;
      }
      return runs;
    }
    const runs = run(walk());
    expect(runs.slice(0, 5)).toEqual(["0+1 1 data", "1+1 0 data", "2+1 0 zero", "3+1 2 zero", "4+1 1 data"]);
    expect(runs.at(-1)).toBe("29+3 2 zero");
  });

  it("never shows a backing file's bytes again where they were discarded or zeroed", () => {
    const base = makeBase(SIZE);
    for (const compat of ["1.1", "0.10"]) {
      const driver = new MemoryDriver();
      createQcow2(driver, SIZE, { compat }, { filename: "base", format: "qcow2" });
      const node = openQcow2(driver, { backing: base });
      writeBytes(node, 0, pattern(65_536, 77));
      run(node.writeZeroes(0, 65_536, { mayUnmap: true }));
      expect(readBytes(node, 0, 65_536)).toEqual(new Uint8Array(65_536));
      run(node.discard(0, 65_536));
      expect(readBytes(node, 0, 65_536)).toEqual(new Uint8Array(65_536));
    }
  });

  it("zeroes what it is asked to, and no more, in a last cluster that the disk does not fill", () => {
    const driver = new MemoryDriver();
    createQcow2(driver, 65_536 + 8_192);
    const node = openQcow2(driver);
    const bytes = pattern(node.length, 3);
    writeBytes(node, 0, bytes);
    run(node.writeZeroes(node.length - 2_048, 2_048, { mayUnmap: true }));
    bytes.fill(0, node.length - 2_048);
    expect(readBytes(node, 0, node.length)).toEqual(bytes);
  });

  it("uses the space of discarded clusters again, once that is safe", () => {
    const driver = new MemoryDriver();
    createQcow2(driver, SIZE);
    const node = openQcow2(driver);
    for (let round = 0; round < 20; round++) {
      writeBytes(node, 0, pattern(SIZE / 2, round));
      run(node.discard(0, SIZE / 2));
      run(node.flush());
    }
    expect(driver.length()).toBeLessThan(2.5 * SIZE);
  });

  it("does not hand out a freed cluster while a request that may still use it is in flight", () => {
    const driver = new MemoryDriver();
    createQcow2(driver, SIZE);
    const node = openQcow2(driver);
    writeBytes(node, 0, pattern(65_536, 1));
    const mapOf = (offset: number) => run(node.driver.clusters!.lookup(offset, 65_536)).hostOffset;
    const freed = mapOf(0);
    const reader = run(node.track(0, 0, 512));
    run(node.discard(0, 65_536));
    run(node.flush());
    writeBytes(node, 65_536, pattern(65_536, 2));
    expect(mapOf(65_536)).not.toBe(freed);
    reader.release();
    writeBytes(node, 131_072, pattern(65_536, 3));
    expect(mapOf(131_072)).toBe(freed);
  });

  it("forgets its backing file with one write inside of the first sector", () => {
    const driver = new MemoryDriver();
    createQcow2(driver, SIZE, {}, { filename: "base.qcow2", format: "qcow2" });
    const node = openQcow2(driver);
    expect(node.driver.backingFile).toEqual({ filename: "base.qcow2", format: "qcow2" });
    const writes: string[] = [];
    const write = driver.write.bind(driver);
    driver.write = (offset: number, vector: IoVector) => {
      writes.push(`${offset}+${vector.length}`);
      return write(offset, vector);
    };
    run(node.driver.changeBackingFile!(null));
    expect(writes).toEqual(["8+12"]);
    expect(node.driver.backingFile).toBeNull();
    expect(openQcow2(driver).driver.backingFile).toBeNull();
  });

  it.each([
    ["a shorter name", "b"],
    ["a longer name", "some/other/directory/with-a-longer-name.qcow2"],
    ["a name of 1023 bytes", "x".repeat(1023)],
  ])("takes %s for another backing file, again and again", (_what, filename) => {
    const driver = new MemoryDriver();
    createQcow2(driver, SIZE, {}, { filename: "base.qcow2", format: "qcow2" });
    const node = openQcow2(driver);
    for (const name of [filename, "in-between.qcow2", filename]) {
      run(node.driver.changeBackingFile!({ filename: name, format: "qcow2" }));
      expect(openQcow2(driver).driver.backingFile).toEqual({ filename: name, format: "qcow2" });
    }
  });

  it.each([
    ["an image that says no format", null, "raw"],
    ["an image that says one", "qcow2", "raw"],
    ["a backing file without a format", "qcow2", null],
    ["a format with a longer name", "raw", "parallels"],
  ])("says the new backing file's format, also in %s", (_what, old, format) => {
    const driver = new MemoryDriver();
    createQcow2(driver, SIZE, {}, { filename: "base", format: old });
    const node = openQcow2(driver);
    run(node.driver.changeBackingFile!({ filename: "other", format }));
    expect(openQcow2(driver).driver.backingFile).toEqual({ filename: "other", format });
    run(node.driver.changeBackingFile!(null));
    expect(openQcow2(driver).driver.backingFile).toBeNull();
  });

  it("forgets its backing file where only the name has ended the header's extensions", () => {
    const driver = new MemoryDriver();
    createQcow2(driver, SIZE, { compat: "0.10" }, { filename: "base", format: "qcow2" });
    // The oldest images have the name where the end mark would be.
    const head = new Uint8Array(512);
    driver.content.read(0, head);
    const view = new DataView(head.buffer);
    const extensionEnd = 72 + 16;
    head.fill(0, extensionEnd);
    head.set(new TextEncoder().encode("an-old-name-that-is-no-extension"), extensionEnd);
    view.setBigUint64(8, BigInt(extensionEnd));
    view.setUint32(16, 32);
    driver.content.write(0, head);
    const node = openQcow2(driver);
    expect(node.driver.backingFile?.filename).toBe("an-old-name-that-is-no-extension");
    run(node.driver.changeBackingFile!(null));
    expect(openQcow2(driver).driver.backingFile).toBeNull();
  });

  it("gives clusters back that a crash has leaked, and no others", () => {
    const driver = new MemoryDriver();
    createQcow2(driver, SIZE);
    const before = openQcow2(driver);
    writeBytes(before, 0, pattern(300_000, 1));
    run(before.driver.close());
    // A crash after reservation: counts are written, and nothing points at the clusters.
    const crashed = openQcow2(driver);
    run(crashed.driver.clusters!.allocate(1_048_576, 4 * 65_536));
    run(crashed.driver.flush());
    const after = openQcow2(driver);
    expect(run(after.driver.reclaimLeaks!())).toBe(4);
    expect(run(after.driver.reclaimLeaks!())).toBe(0);
    expect(readBytes(after, 0, 300_000)).toEqual(pattern(300_000, 1));
  });
});

describe("compressed clusters", () => {
  it.each(["4k", "64k", "2M"])("are read back, overwritten and given up like others (%s)", (clusterSize) => {
    const driver = new MemoryDriver();
    createQcow2(driver, 8 * 1024 * 1024, { cluster_size: clusterSize });
    const node = openQcow2(driver);
    const size = node.driver.clusterSize;
    const compressible = (seed: number) => Uint8Array.from({ length: size }, (_, index) => (index >> 5) * seed);
    const model = new ModelDisk(8 * 1024 * 1024);
    for (let at = 0, seed = 1; at < model.length; at += size, seed++) {
      // Random bytes do not get smaller and are stored plainly.
      const bytes = seed % 3 === 0 ? pattern(size, seed) : compressible(seed);
      run(node.writeCompressed(at, IoVector.of(bytes)));
      model.write(at, bytes);
    }
    model.check(0, readBytes(node, 0, model.length));
    expect(driver.length()).toBeLessThan((model.length * 2) / 3 + 5 * size);
    writeBytes(node, 1000, pattern(50_000, 9));
    model.write(1000, pattern(50_000, 9));
    run(node.writeCompressed(size, IoVector.of(compressible(99))));
    model.write(size, compressible(99));
    run(node.driver.close());
    model.check(0, readBytes(openQcow2(driver), 0, model.length));
  });

  it.each(["1", "8", "16", "64"])("share a host cluster as far as counts of %s bits can tell", (refcount_bits) => {
    const driver = new MemoryDriver();
    createQcow2(driver, 64 * 1024 * 1024, { refcount_bits });
    const node = openQcow2(driver);
    // Hundreds of them fit into one host cluster.
    const bytes = new Uint8Array(65_536);
    for (let index = 0; index < 600; index++) {
      bytes.fill(index & 0xff);
      run(node.writeCompressed(index * 65_536, IoVector.of(bytes)));
    }
    run(node.driver.close());
    const again = openQcow2(driver);
    for (let index = 0; index < 600; index++)
      expect(readBytes(again, index * 65_536 + 99, 2)).toEqual(new Uint8Array(2).fill(index & 0xff));
    expect(run(again.driver.reclaimLeaks!())).toBe(0);
  });

  it("never go where the space of others was given back and taken again", () => {
    const driver = new MemoryDriver();
    createQcow2(driver, SIZE);
    const node = openQcow2(driver);
    const cluster = new Uint8Array(65_536);
    run(node.writeCompressed(0, IoVector.of(cluster.fill(1))));
    run(node.discard(0, 65_536));
    run(node.flush());
    // Takes the host cluster in which the compressed data stood alone.
    const taken = pattern(4 * 65_536, 5);
    writeBytes(node, 65_536, taken);
    run(node.writeCompressed(10 * 65_536, IoVector.of(cluster.fill(2))));
    expect(readBytes(node, 65_536, taken.length)).toEqual(taken);
    expect(readBytes(node, 10 * 65_536, 2)).toEqual(Uint8Array.of(2, 2));
  });
});

describe("a qcow2 image file that ends inside of its last cluster", () => {
  it("reads as zeros from there to the cluster's end", () => {
    const driver = new MemoryDriver();
    createQcow2(driver, SIZE);
    const writer = openQcow2(driver);
    // The L2 table follows the first cluster, so that the second stands last.
    for (const at of [65_536, 0]) writeBytes(writer, at, new Uint8Array(65_536).fill(3));
    run(writer.driver.close());
    const { hostOffset } = run(writer.driver.clusters!.lookup(0, 65_536));
    const last = new MemoryDriver(driver.content.clone());
    last.content.truncate(hostOffset! + 1000);
    const node = openQcow2(last, { readOnly: true });
    const expected = new Uint8Array(65_536).fill(3, 0, 1000);
    expect(readBytes(node, 0, 65_536)).toEqual(expected);
    expect(readBytes(node, 999, 3)).toEqual(Uint8Array.of(3, 0, 0));
    expect(readBytes(node, 60_000, 512)).toEqual(new Uint8Array(512));
  });
});

describe("space that leaked", () => {
  it("is not looked for while a request in flight may still use what was given up", () => {
    const driver = new MemoryDriver();
    createQcow2(driver, SIZE);
    const node = openQcow2(driver);
    writeBytes(node, 0, pattern(65_536, 1));
    const reader = run(node.track(0, 0, 512));
    run(node.discard(0, 65_536));
    expect(run(node.driver.reclaimLeaks!())).toBe(0);
    reader.release();
    writeBytes(node, 65_536, pattern(131_072, 2));
    run(node.flush());
    expect(run(node.driver.reclaimLeaks!())).toBe(0);
    expect(readBytes(node, 65_536, 131_072)).toEqual(pattern(131_072, 2));
  });

  it.each(["1", "2", "4", "8", "16", "32", "64"])(
    "is given back whatever the width of the counts (%s bits)",
    (refcount_bits) => {
      const driver = new MemoryDriver();
      createQcow2(driver, SIZE, { refcount_bits, cluster_size: "4k" });
      const node = openQcow2(driver);
      writeBytes(node, 0, pattern(300_000, 1));
      run(node.driver.clusters!.allocate(150 * 4096, 7 * 4096));
      writeBytes(node, 1_000_000, pattern(300_000, 2));
      run(node.driver.close());
      const again = openQcow2(driver);
      expect(run(again.driver.reclaimLeaks!())).toBe(7);
      expect(run(again.driver.reclaimLeaks!())).toBe(0);
      const before = driver.length();
      writeBytes(again, 150 * 4096, pattern(7 * 4096, 3));
      expect(driver.length()).toBe(before);
      expect(readBytes(again, 1_000_000, 300_000)).toEqual(pattern(300_000, 2));
    },
  );
});

describe("a qcow2 image with counts of 64 bits", () => {
  it("is written where a count is larger than any number, and leaves that count as it is", () => {
    const driver = new MemoryDriver();
    createQcow2(driver, SIZE, { refcount_bits: "64" });
    const node = openQcow2(driver);
    writeBytes(node, 0, pattern(512, 1));
    run(node.driver.close());
    const bytes = contentOf(driver.content);
    const view = new DataView(bytes.buffer);
    const block = Number(view.getBigUint64(Number(view.getBigUint64(48))));
    const l2 = Number(view.getBigUint64(Number(view.getBigUint64(40))) & 0x00ff_ffff_ffff_fe00n);
    const cluster = view.getBigUint64(l2) & 0x00ff_ffff_ffff_fe00n;
    view.setBigUint64(l2, cluster);
    view.setBigUint64(block + Number(cluster / 65_536n) * 8, 2n ** 64n - 1n);
    const poked = new MemoryDriver(bytes);
    const opened = openQcow2(poked);
    writeBytes(opened, 0, pattern(512, 2));
    run(opened.driver.close());
    expect(readBytes(openQcow2(poked, { readOnly: true }), 0, 512)).toEqual(pattern(512, 2));
    const after = new DataView(contentOf(poked.content).buffer);
    expect(after.getBigUint64(block + Number(cluster / 65_536n) * 8)).toBe(2n ** 64n - 1n);
  });
});
