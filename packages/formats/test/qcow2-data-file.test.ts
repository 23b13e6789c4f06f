/** Images whose data stands in a file of its own: what is where, and what a raw data file shows. */
import { SeededRandom } from "@spindle/base";
import { type BlockNode, IoVector } from "@spindle/block";
import { forEachSeed, MemoryDriver, ModelDisk, RecordedDriver, randomBytes, SimulatedRunner } from "@spindle/testkit";
import { describeDriver } from "@spindle/testkit/driver-conformance";
import { afterAll, describe, expect, it } from "vitest";
import { qcow2Format } from "../src/index.ts";
import { checkHere } from "./check-both.ts";
import { createQcow2, environment, fileNode, openQcow2, readBytes, run, writeBytes } from "./open-image.ts";
import { QemuImages, qemuImg, qemuIo } from "./qemu-images.ts";

const CLUSTER = 16_384;
const SIZE = 40 * CLUSTER + 3 * 512;

const images = new QemuImages();
afterAll(() => images.remove());

const VARIANTS: readonly (readonly [what: string, options: Record<string, string>])[] = [
  ["a data file", {}],
  ["a raw data file", { data_file_raw: "on" }],
  ["a data file and subclusters", { extended_l2: "on" }],
  ["a raw data file and subclusters", { extended_l2: "on", data_file_raw: "on" }],
];

function optionsOf(more: Record<string, string>): Record<string, string> {
  return { cluster_size: "16k", data_file: "data.raw", ...more };
}

describe.each(VARIANTS)("with %s", (what, more) => {
  describeDriver(`qcow2, ${what}`, () => {
    const runner = new SimulatedRunner(1);
    const files = new WeakMap<object, { file: MemoryDriver; data: MemoryDriver }>();
    function* open(file: MemoryDriver, data: MemoryDriver) {
      const children = { file: fileNode(file), backing: null, data: fileNode(data) };
      const inFlight = { ticket: () => 0, oldestTicket: () => Number.POSITIVE_INFINITY };
      const request = { nodeName: "image", options: {}, children, readOnly: false, environment, inFlight };
      const driver = yield* qcow2Format.open(request);
      files.set(driver, { file, data });
      return driver;
    }
    return {
      *open(length) {
        const file = new MemoryDriver();
        const data = new MemoryDriver();
        createQcow2(file, length, optionsOf(more), undefined, fileNode(data));
        return yield* open(file, data);
      },
      *reopen(closed) {
        const { file, data } = files.get(closed)!;
        return yield* open(file, data);
      },
      run: (co) => runner.run(co),
    };
  });
});

interface Request {
  readonly words: string;
  readonly run: (node: BlockNode) => void;
}

function randomRequest(random: SeededRandom, byte: number): Request {
  const unit = random.pick([1, 512, CLUSTER]);
  const offset = random.below(SIZE / unit) * unit;
  const length = Math.min(SIZE - offset, unit * (1 + random.below(random.pick([3, 8]))));
  switch (random.below(5)) {
    case 0:
      return { words: `write -z ${offset} ${length}`, run: (node) => run(node.writeZeroes(offset, length)) };
    case 1:
      return {
        words: `write -z -u ${offset} ${length}`,
        run: (node) => run(node.writeZeroes(offset, length, { mayUnmap: true })),
      };
    case 2:
      return { words: `discard ${offset} ${length}`, run: (node) => run(node.discard(offset, length)) };
    default:
      return {
        words: `write -P ${byte} ${offset} ${length}`,
        run: (node) => writeBytes(node, offset, new Uint8Array(length).fill(byte)),
      };
  }
}

function expectClean(name: string): void {
  const { code, text } = images.check(name);
  expect(code, text).toBe(0);
}

describe.skipIf(qemuImg === undefined || qemuIo === undefined)("an image with a data file", () => {
  it.each(VARIANTS)("becomes what it becomes in QEMU: with %s", async (_what, more) => {
    await forEachSeed(4, (seed) => {
      const random = new SeededRandom(seed);
      const options = optionsOf(more);
      const text = Object.entries(options).map(([key, value]) => `${key}=${value}`);
      images.img("create", "-q", "-f", "qcow2", "-o", text.join(","), "image.qcow2", String(SIZE));
      const file = new MemoryDriver();
      const data = new MemoryDriver();
      createQcow2(file, SIZE, options, undefined, fileNode(data));
      expect(Buffer.compare(file.content.toBytes(), images.bytes("image.qcow2"))).toBe(0);
      expect(data.length()).toBeGreaterThanOrEqual(SIZE);
      const node = openQcow2(file, { data: fileNode(data) });
      const requests = Array.from({ length: 25 }, (_, index) => randomRequest(random, index + 1));
      images.io("image.qcow2", ...requests.map(({ words }) => words));
      for (const request of requests) request.run(node);
      const bytes = readBytes(node, 0, SIZE);
      run(node.driver.close());
      const theirs = [images.img("map", "--output=json", "image.qcow2"), images.disk("image.qcow2")] as const;
      images.store("image.qcow2", file);
      images.store("data.raw", data);
      expectClean("image.qcow2");
      expect(images.img("map", "--output=json", "image.qcow2")).toBe(theirs[0]);
      expect(Buffer.compare(bytes, theirs[1])).toBe(0);
      expect(Buffer.compare(bytes, images.disk("image.qcow2"))).toBe(0);
      const isRaw = more["data_file_raw"] === "on";
      const wasDiscarded = requests.some(({ words }) => words.startsWith("discard"));
      if (isRaw && !wasDiscarded) expect(Buffer.compare(data.content.toBytes().subarray(0, SIZE), bytes)).toBe(0);
    });
  });

  it("is told, and its data file named, as by QEMU", () => {
    for (const [, more] of VARIANTS) {
      const options = optionsOf(more);
      const text = Object.entries(options).map(([key, value]) => `${key}=${value}`);
      images.img("create", "-q", "-f", "qcow2", "-o", text.join(","), "image.qcow2", String(SIZE));
      const theirs = JSON.parse(images.img("info", "--output=json", "image.qcow2")) as Record<string, unknown>;
      const node = openQcow2(images.load("image.qcow2"), { readOnly: true });
      expect(node.driver.information!()["format-specific"]).toEqual(theirs["format-specific"]);
      expect(checkHere(images.bytes("image.qcow2")).numbers).toEqual(
        withoutZeros(JSON.parse(images.img("check", "--output=json", "image.qcow2")) as Record<string, unknown>),
      );
    }
  });

  it("grows and shrinks with its data file", () => {
    for (const [, more] of VARIANTS) {
      const file = new MemoryDriver();
      const data = new MemoryDriver();
      createQcow2(file, SIZE, optionsOf(more), undefined, fileNode(data));
      const node = openQcow2(file, { data: fileNode(data) });
      writeBytes(node, 0, new Uint8Array(SIZE).fill(1));
      run(node.truncate(2 * SIZE));
      expect(data.length()).toBeGreaterThanOrEqual(2 * SIZE);
      expect(readBytes(node, SIZE, SIZE)).toEqual(new Uint8Array(SIZE));
      run(node.truncate(SIZE / 2 - ((SIZE / 2) % 512)));
      expect(data.length()).toBe(SIZE / 2 - ((SIZE / 2) % 512));
      run(node.truncate(SIZE));
      const expected = new Uint8Array(SIZE).fill(1, 0, SIZE / 2 - ((SIZE / 2) % 512));
      expect(Buffer.compare(readBytes(node, 0, SIZE), expected)).toBe(0);
      run(node.driver.close());
      images.store("image.qcow2", file);
      images.store("data.raw", data);
      expectClean("image.qcow2");
      expect(Buffer.compare(images.disk("image.qcow2"), expected)).toBe(0);
    }
  });
});

describe("a data file", () => {
  function make(more: Record<string, string> = {}) {
    const file = new RecordedDriver(0);
    const data = new RecordedDriver(0, file.log.timeline);
    createQcow2(file as unknown as MemoryDriver, SIZE, optionsOf(more), undefined, fileNode(data));
    return { file, data };
  }

  it("keeps no compressed clusters, and shares nothing with snapshots", () => {
    const { file, data } = make();
    const node = openQcow2(file, { data: fileNode(data) });
    const compress = () => run(node.writeCompressed(0, IoVector.of(new Uint8Array(CLUSTER))));
    expect(compress).toThrow(expect.objectContaining({ code: "ENOTSUP" }));
    const snapshots = node.driver.snapshots!;
    for (const change of [() => snapshots.create("one", 1, 2), () => snapshots.apply("1")])
      expect(() => run(change())).toThrow(expect.objectContaining({ code: "ENOTSUP" }));
  });

  it("has what was written before the metadata points at it", () => {
    const { file, data } = make();
    const node = openQcow2(file, { data: fileNode(data) });
    const bytes = randomBytes(new SeededRandom(1), 3 * CLUSTER);
    writeBytes(node, CLUSTER, bytes);
    run(node.flush());
    // The image file as it is now, with only what the data file had when it was flushed last.
    const again = openQcow2(new MemoryDriver(file.content), { data: fileNode(new MemoryDriver(data.content)) });
    expect(Buffer.compare(readBytes(again, CLUSTER, 3 * CLUSTER), bytes)).toBe(0);
    const written = data.log.entries.find(({ change }) => change.kind === "write");
    const flushed = data.log.entries.find(({ change }) => change.kind === "flush");
    const pointed = file.log.entries.findLast(({ change }) => change.kind === "write");
    expect(written?.completed).toBeLessThan(flushed?.issued ?? 0);
    expect(flushed?.completed).toBeLessThan(pointed?.issued ?? 0);
  });

  it("is not needed to look at an image, whose data cannot be read without it", () => {
    const { file } = make({ data_file_raw: "on" });
    const node = openQcow2(file, { readOnly: true });
    expect(node.length).toBe(SIZE);
    expect(() => readBytes(node, 0, 512)).toThrow(/data file is not open/);
    expect(() => openQcow2(file)).toThrow(/'data-file' is required/);
  });

  it("is the only place where an image's data may be: an entry that points elsewhere is an error", () => {
    const { file, data } = make();
    const node = openQcow2(file, { data: fileNode(data) });
    writeBytes(node, CLUSTER, new Uint8Array(CLUSTER).fill(1));
    run(node.driver.close());
    const bytes = file.content.toBytes();
    const view = new DataView(bytes.buffer);
    const l2 = Number(view.getBigUint64(Number(view.getBigUint64(40))) & 0x00fffffffffffe00n);
    view.setBigUint64(l2 + 8, view.getBigUint64(l2 + 8) + BigInt(CLUSTER));
    const changed = openQcow2(new MemoryDriver(bytes), { data: fileNode(data), readOnly: true });
    expect(() => readBytes(changed, CLUSTER, 1)).toThrow(/does not match guest cluster/);
    // The data file's first cluster, which is not part of the hole before it.
    view.setBigUint64(l2 + 8 * 8, 1n << 63n);
    const second = openQcow2(new MemoryDriver(bytes), { data: fileNode(data), readOnly: true });
    expect(run(second.blockStatus(2 * CLUSTER, 30 * CLUSTER))).toMatchObject({ allocated: false, length: 6 * CLUSTER });
    expect(() => readBytes(second, 2 * CLUSTER, 7 * CLUSTER)).toThrow(/does not match guest cluster/);
  });

  it("that is raw keeps a disk of zeros and of data the same in both files", () => {
    const { file, data } = make({ data_file_raw: "on" });
    const node = openQcow2(file, { data: fileNode(data) });
    const model = new ModelDisk(SIZE);
    const random = new SeededRandom(5);
    for (let round = 0; round < 60; round++) {
      const offset = random.below(SIZE);
      const length = 1 + random.below(Math.min(50_000, SIZE - offset));
      if (random.chance(0.5)) {
        const bytes = randomBytes(random, length);
        writeBytes(node, offset, bytes);
        model.write(offset, bytes);
      } else {
        run(node.writeZeroes(offset, length, { mayUnmap: random.chance(0.5) }));
        model.writeZeroes(offset, length);
      }
    }
    model.check(0, readBytes(node, 0, SIZE));
    model.check(0, data.content.toBytes().subarray(0, SIZE));
  });
});

function withoutZeros(told: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(told).filter(([, value]) => typeof value === "number" && value !== 0));
}
