/** Images whose options are changed show what they showed, their snapshots too, and QEMU finds nothing wrong in them. */
import { SeededRandom } from "@spindle/base";
import { type BlockNode, type InternalSnapshots, IoVector } from "@spindle/block";
import { crashStates, FaultyDriver, forEachSeed, MemoryDriver, RecordedDriver, randomBytes } from "@spindle/testkit";
import { afterAll, describe, expect, it } from "vitest";
import { contentOf, createQcow2, fileNode, openQcow2, readBytes, run, writeBytes } from "./open-image.ts";
import { QemuImages, qemuImg } from "./qemu-images.ts";

const SIZE = 256 * 1024;
const images = new QemuImages();
afterAll(() => images.remove());

/** Below images with a backing file; shorter than they are. */
const BASE: Uint8Array = randomBytes(new SeededRandom(99), SIZE - 8192);
images.put("base.raw", BASE);

interface Kind {
  readonly options: Record<string, string>;
  readonly hasBacking: boolean;
}

function open(driver: MemoryDriver | RecordedDriver | FaultyDriver, { hasBacking }: Kind, readOnly = false): BlockNode {
  const backing = hasBacking ? { backing: fileNode(new MemoryDriver(BASE.slice()), true) } : {};
  return openQcow2(driver, { readOnly, ...backing });
}

function create({ options, hasBacking }: Kind): MemoryDriver {
  const driver = new MemoryDriver();
  createQcow2(driver, SIZE, options, hasBacking ? { filename: "base.raw", format: "raw" } : undefined);
  return driver;
}

const amend = (node: BlockNode, options: Record<string, string>): void =>
  run(node.exclusively(() => node.driver.amend!(options, () => {}, false)));
const snapshot = (node: BlockNode, name: string): void =>
  run(node.exclusively(() => (node.driver.snapshots as InternalSnapshots).create(name, 1_700_000_000, 0)));

/** Data, zeros with and without space, holes and compressed clusters. */
function fill(node: BlockNode, random: SeededRandom): void {
  const { clusterSize } = node.driver;
  for (let count = 0; count < 12; count++) {
    const offset = random.below(node.length / 512 - 64) * 512;
    const length = (1 + random.below(63)) * 512;
    const kind = random.below(5);
    if (kind < 2) run(node.writeZeroes(offset, length, { mayUnmap: kind === 0 }));
    else if (kind === 2) run(node.discard(offset, length));
    else if (kind === 3 && clusterSize <= 65_536)
      run(node.writeCompressed(offset - (offset % clusterSize), IoVector.of(new Uint8Array(clusterSize).fill(offset))));
    else writeBytes(node, offset, randomBytes(random, length));
  }
}

/** A disk with two snapshots, and what each of them shows. */
function makeImage(kind: Kind, random: SeededRandom): { driver: MemoryDriver; contents: Uint8Array[] } {
  const driver = create(kind);
  const node = open(driver, kind);
  const contents: Uint8Array[] = [];
  for (const name of ["one", "two"]) {
    fill(node, random);
    snapshot(node, name);
    contents.push(readBytes(node, 0, node.length));
  }
  fill(node, random);
  contents.push(readBytes(node, 0, node.length));
  run(node.driver.close());
  return { driver, contents };
}

/** The snapshots, in order, and the disk. */
function contentsOf(bytes: Uint8Array, kind: Kind): Uint8Array[] {
  const all: Uint8Array[] = [];
  for (const id of ["1", "2", undefined]) {
    const node = open(new MemoryDriver(bytes), kind, true);
    if (id !== undefined) run((node.driver.snapshots as InternalSnapshots).show(id));
    all.push(readBytes(node, 0, node.length));
  }
  return all;
}

const KINDS: readonly Kind[] = [
  { options: { cluster_size: "512" }, hasBacking: false },
  { options: { cluster_size: "4k" }, hasBacking: true },
  { options: { cluster_size: "64k", lazy_refcounts: "on" }, hasBacking: true },
  { options: { cluster_size: "4k", compat: "0.10" }, hasBacking: false },
];

describe.skipIf(qemuImg === undefined)("an amended image", () => {
  it.each(KINDS)("shows what it showed, in every version and with counts of every width: $options", async (kind) => {
    await forEachSeed(2, (seed) => {
      const random = new SeededRandom(seed);
      const { driver, contents } = makeImage(kind, random);
      for (let step = 0; step < 6; step++) {
        const node = open(driver, kind);
        const isThird = random.chance(0.6);
        const options = isThird
          ? {
              compat: "1.1",
              refcount_bits: String(2 ** (2 + random.below(5))),
              lazy_refcounts: random.chance(0.5) ? "on" : "off",
            }
          : { compat: "0.10", refcount_bits: "16", lazy_refcounts: "off" };
        amend(node, options);
        // It goes on as an image of the new kind.
        const written = randomBytes(random, 3000);
        const offset = random.below(SIZE - 3000);
        writeBytes(node, offset, written);
        (contents[2] as Uint8Array).set(written, offset);
        run(node.driver.close());
        images.store("image.qcow2", driver);
        const what = JSON.stringify(options);
        expect(images.check("image.qcow2"), what).toMatchObject({ code: 0 });
        const info = JSON.parse(images.img("info", "--output=json", "image.qcow2")) as {
          "format-specific": { data: Record<string, unknown> };
        };
        expect(info["format-specific"].data).toMatchObject({
          compat: options.compat,
          "refcount-bits": Number(options.refcount_bits),
          ...(isThird ? { "lazy-refcounts": options.lazy_refcounts === "on" } : {}),
        });
        const found = contentsOf(contentOf(driver.content), kind);
        for (const [index, content] of contents.entries())
          expect(Buffer.compare(found[index] as Uint8Array, content), `${what}, state ${index}`).toBe(0);
        expect(Buffer.compare(images.disk("image.qcow2"), contents[2] as Uint8Array)).toBe(0);
        expect(Buffer.compare(images.disk("image.qcow2", "-l", "one"), contents[0] as Uint8Array)).toBe(0);
      }
    });
  });

  it("is refused what cannot be, and stays as it was", () => {
    const kind = { options: { cluster_size: "4k" }, hasBacking: false };
    const { driver, contents } = makeImage(kind, new SeededRandom(1));
    const before = contentOf(driver.content);
    const refused: [Record<string, string>, RegExp][] = [
      [
        { refcount_bits: "1" },
        /^Cannot decrease refcount entry width to 1 bits: Cluster at offset 0x\w+ has a refcount/,
      ],
      [{ compat: "0.10", lazy_refcounts: "on" }, /^Lazy refcounts only supported with compatibility level 1.1/],
      [{ compat: "3" }, /^Unknown compatibility level 3$/],
      [{ refcount_bits: "12" }, /^Refcount width must be a power of two/],
      [{ backing_file: "x" }, /^Cannot amend the backing file$/],
    ];
    for (const [options, message] of refused) {
      const node = open(driver, kind);
      expect(() => amend(node, options)).toThrow(message);
      run(node.driver.close());
    }
    expect(Buffer.compare(contentOf(driver.content), before)).toBe(0);
    const node = open(driver, kind);
    run(node.truncate(2 * SIZE));
    expect(() => amend(node, { compat: "0.10" })).toThrow(/^Internal snapshots prevent downgrade of image$/);
    run(node.driver.close());
    expect(contentsOf(contentOf(driver.content), kind)[0]?.subarray(0, SIZE)).toEqual(contents[0]);
  });

  it.each([
    [{ options: { cluster_size: "4k" }, hasBacking: true }, { compat: "0.10" }],
    [{ options: { cluster_size: "512" }, hasBacking: false }, { compat: "0.10" }],
    [
      { options: { cluster_size: "512", compat: "0.10" }, hasBacking: false },
      { compat: "1.1", refcount_bits: "64" },
    ],
    [
      { options: { cluster_size: "4k", compat: "0.10" }, hasBacking: true },
      { compat: "1.1", lazy_refcounts: "on" },
    ],
    [{ options: { cluster_size: "4k" }, hasBacking: true }, { refcount_bits: "4" }],
  ])("after a power cut is what it was or what it was to be: %o, %o", (kind, options) => {
    const random = new SeededRandom(7);
    const { driver, contents } = makeImage(kind as Kind, random);
    const file = new RecordedDriver(driver.content);
    const node = open(file, kind as Kind);
    amend(node, options as unknown as Record<string, string>);
    run(node.driver.close());
    let states = 0;
    for (const state of crashStates(file.log, random, 40)) {
      const bytes = contentOf(state.image);
      images.put("crash.qcow2", bytes);
      const { code, text } = images.check("crash.qcow2");
      expect([0, 3], `${state.description}\n${text}`).toContain(code);
      const found = contentsOf(bytes, kind as Kind);
      for (const [index, content] of contents.entries())
        expect(Buffer.compare(found[index] as Uint8Array, content), `${state.description}, state ${index}`).toBe(0);
      states += 1;
    }
    expect(states).toBeGreaterThan(4);
  });

  it("shows what it showed when the file fails at any request", () => {
    const kind = { options: { cluster_size: "4k" }, hasBacking: true };
    const { driver, contents } = makeImage(kind, new SeededRandom(3));
    const start = contentOf(driver.content);
    for (const options of [{ compat: "0.10" }, { refcount_bits: "32" }])
      for (let nth = 1; ; nth += 3) {
        const memory = new MemoryDriver(start.slice());
        const faulty = new FaultyDriver(memory);
        const node = open(faulty, kind);
        faulty.fail({ nth, operations: ["read", "write", "writeZeroes", "flush"], code: "EIO" });
        let failed = false;
        try {
          amend(node, options as unknown as Record<string, string>);
          run(node.driver.close());
        } catch {
          failed = true;
        }
        const found = contentsOf(contentOf(memory.content), kind);
        for (const [index, content] of contents.entries())
          expect(Buffer.compare(found[index] as Uint8Array, content), `request ${nth}`).toBe(0);
        if (!failed) break;
      }
  });
});
