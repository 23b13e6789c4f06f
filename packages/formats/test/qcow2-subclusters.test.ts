/** Images with extended L2 entries: what each subcluster is, and where QEMU would have put it. */
import { SeededRandom } from "@spindle/base";
import { type BlockNode, IoVector } from "@spindle/block";
import { forEachSeed, MemoryDriver, ModelDisk, randomBytes } from "@spindle/testkit";
import { afterAll, describe, expect, it } from "vitest";
import { checkHere } from "./check-both.ts";
import { createQcow2, fileNode, openQcow2, readBytes, run, writeBytes } from "./open-image.ts";
import { QemuImages, qemuImg, qemuIo } from "./qemu-images.ts";

const CLUSTER = 16_384;
const SUBCLUSTER = 512;
const SIZE = 40 * CLUSTER + 3 * SUBCLUSTER;
const OPTIONS = { extended_l2: "on", cluster_size: "16k" };

const images = new QemuImages();
afterAll(() => images.remove());

/** One request, as qemu-io and as a node are told it. */
interface Request {
  readonly kind: "write" | "zero" | "unmap" | "discard" | "compress";
  readonly offset: number;
  readonly length: number;
  readonly byte: number;
}

function randomRequests(random: SeededRandom, kinds: readonly Request["kind"][], count: number): Request[] {
  return Array.from({ length: count }, (_, index) => {
    const kind = random.pick(kinds);
    const byte = 1 + (index % 250);
    if (kind === "compress") return { kind, byte, offset: random.below(40) * CLUSTER, length: CLUSTER };
    const unit = random.pick([1, SUBCLUSTER, SUBCLUSTER, CLUSTER]);
    const offset = random.below(SIZE / unit) * unit;
    const most = random.pick([SUBCLUSTER, 8 * SUBCLUSTER, 3 * CLUSTER]);
    const length = Math.min(SIZE - offset, Math.max(unit, random.below(most / unit) * unit));
    return { kind, byte, offset, length };
  });
}

function asCommand({ kind, offset, length, byte }: Request): string {
  const words = {
    write: `write -P ${byte}`,
    zero: "write -z",
    unmap: "write -z -u",
    discard: "discard",
    compress: `write -c -P ${byte}`,
  };
  return `${words[kind]} ${offset} ${length}`;
}

function doIt(node: BlockNode, { kind, offset, length, byte }: Request): void {
  const bytes = new Uint8Array(length).fill(byte);
  if (kind === "write") writeBytes(node, offset, bytes);
  else if (kind === "compress") run(node.writeCompressed(offset, IoVector.of(bytes)));
  else if (kind === "discard") run(node.discard(offset, length));
  else run(node.writeZeroes(offset, length, { mayUnmap: kind === "unmap" }));
}

interface MapRun {
  readonly start: number;
  readonly length: number;
  readonly depth: number;
  readonly offset?: number;
}

/** Where every run of the disk stands, as qemu-img tells it; without offsets, runs that differ in nothing else are one. */
function mapOf(name: string, withOffsets: boolean): unknown[] {
  const runs = JSON.parse(images.img("map", "--output=json", name)) as MapRun[];
  if (withOffsets) return runs;
  const merged: { length: number; what: string }[] = [];
  for (const { start: _start, length, offset, ...rest } of runs) {
    const what = JSON.stringify({ ...rest, isPlaced: offset !== undefined });
    const last = merged.at(-1);
    if (last?.what === what) last.length += length;
    else merged.push({ length, what });
  }
  return merged;
}

function expectClean(name: string): void {
  const { code, text } = images.check(name);
  expect(code, text).toBe(0);
}

describe.skipIf(qemuImg === undefined || qemuIo === undefined)("an image with subclusters", () => {
  it.each([
    ["writes and zeros, to the byte of the file", ["write", "write", "zero"], false, true],
    ["writes and zeros over a backing file, to the byte of the file", ["write", "zero"], true, true],
    ["zeros that give space back, and discards", ["write", "write", "zero", "unmap", "discard"], false, false],
    ["the same over a backing file", ["write", "zero", "unmap", "discard"], true, false],
  ] as const)("becomes what it becomes in QEMU: %s", async (_what, kinds, hasBacking, withOffsets) => {
    images.put("base.raw", new Uint8Array(SIZE - 5 * CLUSTER - 700).fill(0xbb, 0, 20 * CLUSTER));
    const backed = hasBacking ? ["-b", "base.raw", "-F", "raw"] : [];
    await forEachSeed(6, (seed) => {
      const random = new SeededRandom(seed);
      const options = Object.entries(OPTIONS).map(([key, value]) => `${key}=${value}`);
      images.img("create", "-q", "-f", "qcow2", "-o", options.join(","), ...backed, "theirs.qcow2", String(SIZE));
      const driver = new MemoryDriver();
      createQcow2(driver, SIZE, OPTIONS, hasBacking ? { filename: "base.raw", format: "raw" } : undefined);
      expect(Buffer.compare(driver.content.toBytes(), images.bytes("theirs.qcow2"))).toBe(0);
      const backing = fileNode(new MemoryDriver(images.bytes("base.raw")), true);
      const node = openQcow2(driver, hasBacking ? { backing } : {});
      const packed = withOffsets ? [] : randomRequests(random, ["compress"], 1);
      const requests = [...packed, ...randomRequests(random, kinds, 25)];
      images.io("theirs.qcow2", ...requests.map(asCommand));
      for (const request of requests) doIt(node, request);
      const bytes = readBytes(node, 0, SIZE);
      run(node.driver.close());
      images.store("ours.qcow2", driver);
      expectClean("ours.qcow2");
      expect(mapOf("ours.qcow2", withOffsets)).toEqual(mapOf("theirs.qcow2", withOffsets));
      expect(Buffer.compare(bytes, images.disk("theirs.qcow2"))).toBe(0);
      expect(Buffer.compare(bytes, images.disk("ours.qcow2"))).toBe(0);
    });
  });

  it("stores what does not get smaller by being compressed, over parts of clusters that hold data", () => {
    const driver = new MemoryDriver();
    createQcow2(driver, SIZE, OPTIONS);
    const node = openQcow2(driver);
    const model = new ModelDisk(SIZE);
    for (const offset of [0, 3 * SUBCLUSTER, 2 * CLUSTER - SUBCLUSTER]) {
      writeBytes(node, offset, new Uint8Array(SUBCLUSTER).fill(1));
      model.write(offset, new Uint8Array(SUBCLUSTER).fill(1));
    }
    for (const cluster of [0, 1, 2]) {
      const bytes = randomBytes(new SeededRandom(cluster), CLUSTER);
      run(node.writeCompressed(cluster * CLUSTER, IoVector.of(bytes)));
      model.write(cluster * CLUSTER, bytes);
    }
    model.check(0, readBytes(node, 0, SIZE));
    run(node.driver.close());
    images.store("image.qcow2", driver);
    expectClean("image.qcow2");
    model.check(0, images.disk("image.qcow2"));
  });

  it("keeps its snapshots while parts of clusters are written, zeroed and discarded", async () => {
    await forEachSeed(4, (seed) => {
      const random = new SeededRandom(seed);
      const driver = new MemoryDriver();
      createQcow2(driver, SIZE, OPTIONS);
      const node = openQcow2(driver);
      const kinds = ["write", "write", "zero", "unmap", "discard"] as const;
      for (const request of randomRequests(random, kinds, 20)) doIt(node, request);
      const before = readBytes(node, 0, SIZE);
      run(node.driver.snapshots!.create("before", 1, 2));
      for (const request of randomRequests(random, kinds, 20)) doIt(node, request);
      const after = readBytes(node, 0, SIZE);
      run(node.driver.close());
      images.store("image.qcow2", driver);
      expectClean("image.qcow2");
      expect(Buffer.compare(images.disk("image.qcow2"), after)).toBe(0);
      expect(Buffer.compare(images.disk("image.qcow2", "-l", "before"), before)).toBe(0);
      const again = openQcow2(driver);
      run(again.driver.snapshots!.apply("1"));
      run(again.driver.snapshots!.remove("1"));
      expect(Buffer.compare(readBytes(again, 0, SIZE), before)).toBe(0);
      run(again.driver.close());
      images.store("image.qcow2", driver);
      expectClean("image.qcow2");
    });
  });

  it.each(["metadata", "falloc", "full"])("has clusters in which nothing is when it is preallocated (%s)", (mode) => {
    images.put("base.raw", new Uint8Array(SIZE).fill(7));
    const options = { ...OPTIONS, preallocation: mode };
    const text = Object.entries(options).map(([key, value]) => `${key}=${value}`);
    const backed = ["-b", "base.raw", "-F", "raw"];
    images.img("create", "-q", "-f", "qcow2", "-o", text.join(","), ...backed, "theirs.qcow2", String(SIZE));
    const driver = new MemoryDriver();
    createQcow2(driver, SIZE, options, { filename: "base.raw", format: "raw" });
    images.store("ours.qcow2", driver);
    expectClean("ours.qcow2");
    expect(images.img("check", "--output=json", "ours.qcow2").replaceAll("ours", "")).toBe(
      images.img("check", "--output=json", "theirs.qcow2").replaceAll("theirs", ""),
    );
    images.io("ours.qcow2", "read -P 7 0 600k", "write -P 8 100k 2k");
    const node = openQcow2(images.load("ours.qcow2"), {
      backing: fileNode(new MemoryDriver(images.bytes("base.raw")), true),
    });
    writeBytes(node, 5 * CLUSTER + 700, new Uint8Array(3000).fill(9));
    const expected = new Uint8Array(SIZE).fill(7);
    expected.fill(8, 102_400, 104_448);
    expected.fill(9, 5 * CLUSTER + 700, 5 * CLUSTER + 3700);
    expect(Buffer.compare(readBytes(node, 0, SIZE), expected)).toBe(0);
  });

  it.each([503, 512, 1013])("shows zeros behind the old end when it gets longer than %i KiB", (kib) => {
    const longer = kib * 1024 + 510 * 1024;
    images.put("base.raw", new Uint8Array(2 * 1024 * 1024).fill(7));
    for (const preallocation of ["off", "metadata", "falloc"] as const) {
      const driver = new MemoryDriver();
      createQcow2(driver, kib * 1024, { extended_l2: "on" }, { filename: "base.raw", format: "raw" });
      const backing = fileNode(new MemoryDriver(images.bytes("base.raw")), true);
      const node = openQcow2(driver, { backing });
      run(node.truncate(longer, preallocation));
      const expected = new Uint8Array(longer).fill(7, 0, kib * 1024);
      expect(Buffer.compare(readBytes(node, 0, longer), expected)).toBe(0);
      run(node.truncate(kib * 1024 - 512));
      run(node.truncate(longer));
      expected.fill(0, kib * 1024 - 512);
      expect(Buffer.compare(readBytes(node, 0, longer), expected)).toBe(0);
      run(node.driver.close());
      images.store("image.qcow2", driver);
      expectClean("image.qcow2");
      expect(Buffer.compare(images.disk("image.qcow2"), expected)).toBe(0);
    }
  });
});

describe("an L2 entry with subclusters that cannot be true", () => {
  /** Clusters 0 (data), 2 (nothing) and 3 (compressed), with the bits of one of them changed. */
  function changed(cluster: number, bits: bigint): MemoryDriver {
    const driver = new MemoryDriver();
    createQcow2(driver, SIZE, OPTIONS);
    const node = openQcow2(driver);
    writeBytes(node, 0, new Uint8Array(CLUSTER).fill(1));
    run(node.writeCompressed(3 * CLUSTER, IoVector.of(new Uint8Array(CLUSTER).fill(2))));
    run(node.driver.close());
    const bytes = driver.content.toBytes();
    const view = new DataView(bytes.buffer);
    const l2 = Number(view.getBigUint64(Number(view.getBigUint64(40))) & 0x00fffffffffffe00n);
    view.setBigUint64(l2 + cluster * 16 + 8, bits);
    return new MemoryDriver(bytes);
  }

  it.each([
    ["both data and zeros", 0, 0x1_ffffffffn],
    ["data without a cluster", 2, 0x5n],
  ])("is an error of what is read and written there, and marks the image corrupt: %s", (_what, cluster, bits) => {
    const driver = changed(cluster, bits);
    expect(() => readBytes(openQcow2(driver, { readOnly: true }), cluster * CLUSTER, 1)).toThrow(
      /Invalid cluster entry/,
    );
    const node = openQcow2(driver);
    expect(() => writeBytes(node, cluster * CLUSTER, new Uint8Array(10))).toThrow(/Invalid cluster entry/);
    expect(node.driver.information!()["format-specific"]?.data["corrupt"]).toBe(true);
    expect(() => writeBytes(node, 9 * CLUSTER, new Uint8Array(10))).toThrow(/takes no more writes/);
  });

  it("does not keep compressed data from being read, whose entry has no bits", () => {
    const node = openQcow2(changed(3, 0x5n), { readOnly: true });
    expect(readBytes(node, 3 * CLUSTER, CLUSTER)).toEqual(new Uint8Array(CLUSTER).fill(2));
  });

  it("is mended subcluster by subcluster: what is not certain becomes zeros, the rest stays", () => {
    const model = new ModelDisk(SIZE);
    model.write(0, new Uint8Array(CLUSTER).fill(1));
    model.write(3 * CLUSTER, new Uint8Array(CLUSTER).fill(2));
    model.writeZeroes(0, SUBCLUSTER);
    const repaired = checkHere(changed(0, 0x1_ffffffffn).content.toBytes(), "all");
    expect(repaired.numbers).toMatchObject({ "corruptions-fixed": 1 });
    model.check(0, readBytes(openQcow2(new MemoryDriver(repaired.bytes)), 0, SIZE));
  });
});
