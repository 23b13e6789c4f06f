import { SeededRandom } from "@spindle/base";
import type { BlockNode } from "@spindle/block";
import { MemoryDriver, ModelDisk, randomBytes } from "@spindle/testkit";
import { afterAll, describe, expect, it } from "vitest";
import { createQcow2, openQcow2, readBytes, run, writeBytes } from "./open-image.ts";
import { QemuImages, qemuImg, qemuIo } from "./qemu-images.ts";

const SIZE = 4 * 1024 * 1024 + 3 * 512;
const images = new QemuImages();
afterAll(() => images.remove());

/** Data, holes, zeros that keep their clusters and zeros that do not, as QEMU writes them. */
const COMMANDS = [
  "write -P 1 0 300k",
  "write -P 2 700k 5k",
  "write -P 3 1M 600k",
  "write -z 1200k 200k",
  "write -z -u 100k 100k",
  "write -z 2M 130k",
  "discard 1M 64k",
  "write -P 4 3000001 70001",
  `write -P 5 ${SIZE - 700} 700`,
];

function create(name: string, options: string, ...more: string[]): void {
  images.img("create", "-q", "-f", "qcow2", ...(options === "" ? [] : ["-o", options]), ...more, name, String(SIZE));
}

function written(options: string): (name: string) => void {
  return (name) => {
    create(name, options);
    images.io(name, ...COMMANDS);
  };
}

function compressed(options: string): (name: string) => void {
  return (name) => {
    const random = new SeededRandom(7);
    const bytes = new Uint8Array(SIZE);
    for (let at = 0; at < SIZE; at += 1000) {
      // A third stays zeros, a third gets smaller, a third does not.
      if (at % 3000 === 1000) bytes.fill(random.u32(), at, at + 1000);
      if (at % 3000 === 2000 && at > SIZE / 2) bytes.set(randomBytes(random, Math.min(1000, SIZE - at)), at);
    }
    images.put("source.raw", bytes);
    images.img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, "source.raw", name);
  };
}

const KINDS: readonly (readonly [what: string, make: (name: string) => void])[] = [
  ["clusters of 512 bytes", written("cluster_size=512")],
  ["clusters of 4 KiB", written("cluster_size=4k")],
  ["clusters of 64 KiB", written("")],
  ["clusters of 2 MiB", written("cluster_size=2M")],
  ["version 2", written("compat=0.10")],
  ["version 2, clusters of 1 KiB", written("compat=0.10,cluster_size=1k")],
  ["refcounts of 1 bit", written("refcount_bits=1,cluster_size=4k")],
  ["refcounts of 64 bits", written("refcount_bits=64,cluster_size=512")],
  ["zlib-compressed clusters", compressed("cluster_size=4k")],
  ["zlib-compressed clusters of 64 KiB, version 2", compressed("compat=0.10")],
  ["zstd-compressed clusters", compressed("compression_type=zstd")],
  ["preallocated metadata", written("preallocation=metadata")],
  ["preallocated metadata that nobody has written to", (name) => create(name, "preallocation=metadata")],
  ["lazy refcounts, closed in order", written("lazy_refcounts=on")],
];

/** Random requests to an image and to its model, with everything read back. */
function use(node: BlockNode, model: ModelDisk, seed: number): void {
  const random = new SeededRandom(seed);
  for (let round = 0; round < 25; round++) {
    const offset = random.below(SIZE);
    const length = 1 + random.below(Math.min(random.chance(0.2) ? 700_000 : 40_000, SIZE - offset));
    const kind = random.below(10);
    if (kind < 6) {
      const bytes = randomBytes(random, length);
      writeBytes(node, offset, bytes);
      model.write(offset, bytes);
    } else if (kind < 8) {
      run(node.writeZeroes(offset, length, { mayUnmap: random.chance(0.5) }));
      model.writeZeroes(offset, length);
    } else if (kind < 9) {
      run(node.discard(offset, length));
      model.discard(offset, length);
    } else run(node.flush());
  }
  model.check(0, readBytes(node, 0, SIZE));
}

function expectClean(name: string): void {
  const { code, text } = images.check(name);
  expect(code, text).toBe(0);
}

describe.skipIf(qemuImg === undefined || qemuIo === undefined)("a qcow2 image that QEMU has made", () => {
  it.each(KINDS)("is read as QEMU reads it, and is right for QEMU after our writes: %s", (_what, make) => {
    const name = "image.qcow2";
    make(name);
    const before = images.disk(name);
    const driver = images.load(name);
    const node = openQcow2(driver);
    expect(Buffer.compare(readBytes(node, 0, SIZE), before)).toBe(0);
    const model = new ModelDisk(before);
    use(node, model, 11);
    run(node.driver.close());
    images.store(name, driver);
    expectClean(name);
    model.check(0, images.disk(name));
  });

  it("is left as it was by opening, reading and closing it", () => {
    written("")("image.qcow2");
    const driver = images.load("image.qcow2");
    const node = openQcow2(driver);
    readBytes(node, 0, SIZE);
    run(node.driver.close());
    expect(Buffer.compare(driver.content.toBytes(), images.bytes("image.qcow2"))).toBe(0);
  });

  it("is read and written over a chain of three", () => {
    written("cluster_size=4k")("base.qcow2");
    create("middle.qcow2", "compat=0.10", "-b", "base.qcow2", "-F", "qcow2");
    images.io("middle.qcow2", "write -P 11 200k 200k", "write -P 12 2M 5k");
    create("top.qcow2", "cluster_size=512", "-b", "middle.qcow2", "-F", "qcow2");
    images.io("top.qcow2", "write -P 21 250k 10k", "write -z 1100k 10k", "write -z -u 2M 1k");
    const before = images.disk("top.qcow2");
    const base = openQcow2(images.load("base.qcow2"), { readOnly: true });
    const middle = openQcow2(images.load("middle.qcow2"), { readOnly: true, backing: base });
    const driver = images.load("top.qcow2");
    const top = openQcow2(driver, { backing: middle });
    expect(top.driver.backingFile).toEqual({ filename: "middle.qcow2", format: "qcow2" });
    expect(Buffer.compare(readBytes(top, 0, SIZE), before)).toBe(0);
    const model = new ModelDisk(before);
    use(top, model, 12);
    run(top.driver.close());
    images.store("top.qcow2", driver);
    expectClean("top.qcow2");
    model.check(0, images.disk("top.qcow2"));
  });

  it.each(["", "cluster_size=4k", "compat=0.10"])("keeps its snapshots while we write (%s)", (options) => {
    const name = "snapshots.qcow2";
    written(options)(name);
    const first = images.disk(name);
    images.img("snapshot", "-c", "first", name);
    images.io(name, "write -P 31 50k 500k", "discard 1M 1M");
    const second = images.disk(name);
    images.img("snapshot", "-c", "second", name);
    const driver = images.load(name);
    const node = openQcow2(driver);
    expect(Buffer.compare(readBytes(node, 0, SIZE), second)).toBe(0);
    const model = new ModelDisk(second);
    use(node, model, 13);
    run(node.driver.close());
    images.store(name, driver);
    expectClean(name);
    model.check(0, images.disk(name));
    expect(Buffer.compare(images.disk(name, "-l", "first"), first)).toBe(0);
    expect(Buffer.compare(images.disk(name, "-l", "second"), second)).toBe(0);
    // Both are ours alone again once the snapshots are gone.
    images.img("snapshot", "-d", "first", name);
    images.img("snapshot", "-d", "second", name);
    expectClean(name);
  });
});

const CREATED: readonly (readonly [options: string, size: number])[] = [
  ["", SIZE],
  ["", 0],
  ["", 100 * 2 ** 30],
  ["", 8 * 2 ** 40],
  ["compat=0.10", SIZE],
  ["compat=v3,refcount_bits=1", SIZE],
  ["refcount_bits=8", SIZE],
  ["refcount_bits=64,cluster_size=512", SIZE],
  ["cluster_size=512", SIZE],
  ["cluster_size=2M", 2 ** 40],
  ["compression_type=zstd,cluster_size=4k", SIZE],
];

describe.skipIf(qemuImg === undefined || qemuIo === undefined)("a qcow2 image that we have made", () => {
  it.each(CREATED)("has the bytes of QEMU's (%s; %i bytes)", (options, size) => {
    const words = options === "" ? [] : ["-o", options];
    images.img("create", "-q", "-f", "qcow2", ...words, "image.qcow2", String(size));
    const driver = new MemoryDriver();
    createQcow2(driver, size, Object.fromEntries(options.split(",").flatMap(keyAndValue)));
    const information = images.img("info", "--output=json", "image.qcow2");
    expect(Buffer.compare(driver.content.toBytes(), images.bytes("image.qcow2"))).toBe(0);
    images.store("image.qcow2", driver);
    const ours = images.img("info", "--output=json", "image.qcow2");
    expect(withoutFileSize(ours)).toEqual(withoutFileSize(information));
    expectClean("image.qcow2");
  });

  it.each(["", "compat=0.10", "cluster_size=512"])("names its backing file as QEMU does (%s)", (options) => {
    images.put("base.raw", new Uint8Array(SIZE));
    create("image.qcow2", options, "-b", "base.raw", "-F", "raw");
    const driver = new MemoryDriver();
    const backing = { filename: "base.raw", format: "raw" };
    createQcow2(driver, SIZE, Object.fromEntries(options.split(",").flatMap(keyAndValue)), backing);
    expect(Buffer.compare(driver.content.toBytes(), images.bytes("image.qcow2"))).toBe(0);
  });

  it.each(["cluster_size=4k,refcount_bits=64", "cluster_size=4k", "cluster_size=64k"])(
    "has each request's data in one piece, where QEMU would put it (%s)",
    (options) => {
      create("image.qcow2", options);
      images.io("image.qcow2", "write -P 1 0 512k", "discard 64k 64k", "discard 256k 64k", "discard 384k 4k");
      const driver = images.load("image.qcow2");
      const node = openQcow2(driver);
      const requests = [
        [1024, 16],
        [1536, 100],
        [2048, 2000],
      ] as const;
      for (const [at, length] of requests) writeBytes(node, at * 1024, new Uint8Array(length * 1024).fill(7));
      run(node.driver.close());
      images.io("image.qcow2", ...requests.map(([at, length]) => `write -P 7 ${at}k ${length}k`));
      images.store("ours.qcow2", driver);
      expect(images.img("map", "--output=json", "ours.qcow2")).toBe(images.img("map", "--output=json", "image.qcow2"));
      expectClean("ours.qcow2");
    },
  );

  it.each(["cluster_size=512,refcount_bits=64", "cluster_size=512"])(
    "is laid out as QEMU lays it out when its refcount table grows (%s)",
    (options) => {
      images.img("create", "-q", "-f", "qcow2", "-o", options, "image.qcow2", "64M");
      const driver = images.load("image.qcow2");
      const node = openQcow2(driver);
      const requests = Array.from({ length: 30 }, (_, index) => [index * 500_000, 400_000 + index * 1024] as const);
      for (const [at, length] of requests) writeBytes(node, at, new Uint8Array(length).fill(7));
      run(node.driver.close());
      images.io("image.qcow2", ...requests.map(([at, length]) => `write -P 7 ${at} ${length}`));
      images.store("ours.qcow2", driver);
      expect(images.img("map", "--output=json", "ours.qcow2")).toBe(images.img("map", "--output=json", "image.qcow2"));
      const place = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(48);
      expect(place(images.bytes("ours.qcow2"))).toBe(place(images.bytes("image.qcow2")));
      expectClean("ours.qcow2");
    },
  );

  it.each(["cluster_size=512,refcount_bits=64", "cluster_size=512", "cluster_size=1k,refcount_bits=64"])(
    "is right for QEMU when its refcount table has grown, again and again (%s)",
    (options) => {
      const size = 24 * 1024 * 1024;
      const driver = new MemoryDriver();
      createQcow2(driver, size, Object.fromEntries(options.split(",").flatMap(keyAndValue)));
      const node = openQcow2(driver);
      const model = new ModelDisk(size);
      const random = new SeededRandom(3);
      const table = () => new DataView(driver.content.toBytes().buffer).getBigUint64(48);
      const before = table();
      for (let at = 0; at < size; at += 3_000_000) {
        const bytes = randomBytes(random, Math.min(2_000_000, size - at));
        writeBytes(node, at, bytes);
        model.write(at, bytes);
        if (random.chance(0.5)) run(node.flush());
      }
      run(node.driver.close());
      expect(table()).not.toBe(before);
      images.store("grown.qcow2", driver);
      expectClean("grown.qcow2");
      model.check(0, images.disk("grown.qcow2"));
    },
  );
});

function keyAndValue(word: string): [string, string][] {
  const [key, value] = word.split("=");
  return key === undefined || value === undefined ? [] : [[key, value]];
}

function withoutFileSize(json: string): unknown {
  return { ...(JSON.parse(json) as object), "actual-size": 0 };
}
