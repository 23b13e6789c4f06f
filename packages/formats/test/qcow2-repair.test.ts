/** A repair is safe at every point at which the power may fail, and bounded whatever an image says. */
import { isBlockError, SeededRandom } from "@spindle/base";
import { crashStates, MemoryDriver, RecordedDriver, SparseBytes } from "@spindle/testkit";
import { afterAll, describe, expect, it } from "vitest";
import { qcow2Format } from "../src/index.ts";
import { checkHere } from "./check-both.ts";
import { contentOf, createQcow2, fileNode, openQcow2, readBytes, run, writeBytes } from "./open-image.ts";
import { QemuImages, qemuImg } from "./qemu-images.ts";

const CLUSTER = 4096;
const SIZE = 2 * 1024 * 1024;
/** Where the parts of a new image stand. */
const AT = { table: 1 * CLUSTER, block: 2 * CLUSTER, l1: 3 * CLUSTER };

const images = new QemuImages();
afterAll(() => images.remove());

function makeImage(): Uint8Array {
  const driver = new MemoryDriver();
  createQcow2(driver, SIZE, { cluster_size: "4k" });
  const node = openQcow2(driver);
  for (let at = 0; at < SIZE; at += 5 * CLUSTER) writeBytes(node, at, new Uint8Array(CLUSTER).fill(1 + (at % 251)));
  run(node.driver.close());
  return contentOf(driver.content);
}

function changed(image: Uint8Array, ...changes: (readonly [offset: number, value: number | bigint])[]): Uint8Array {
  const bytes = image.slice();
  const view = new DataView(bytes.buffer);
  for (const [offset, value] of changes)
    if (typeof value === "bigint") view.setBigUint64(offset, value);
    else view.setUint16(offset, value);
  return bytes;
}

function disk(bytes: Uint8Array): Uint8Array {
  return readBytes(openQcow2(new MemoryDriver(bytes), { readOnly: true }), 0, SIZE);
}

const image = makeImage();
const DAMAGE: readonly (readonly [what: string, bytes: Uint8Array])[] = [
  ["counts that are too high", changed(image, [AT.block + 20, 3], [AT.block + 100, 2], [AT.block + 200, 7])],
  ["counts that are too low", changed(image, [AT.block + 20, 0], [AT.block + 60, 0])],
  ["no refcount block", changed(image, [AT.table, 0n])],
  ["a refcount block that is elsewhere", changed(image, [AT.table, BigInt(AT.l1)], [AT.table + 8, 512n])],
  ["flags that are wrong", changed(image, [AT.l1, 5n * BigInt(CLUSTER)])],
];

describe("a repair", () => {
  it.each(DAMAGE)("of %s keeps the disk as it is, also when the power fails", (what, bytes) => {
    const before = disk(bytes);
    const file = new RecordedDriver(SparseBytes.of(bytes));
    run(qcow2Format.check!(fileNode(file), { repair: "all", report: () => {} }));
    const repaired = contentOf(file.content);
    expect(checkHere(repaired).lines).toEqual([]);
    expect(Buffer.compare(disk(repaired), before)).toBe(0);
    let states = 0;
    for (const state of crashStates(file.log, new SeededRandom(1), 60)) {
      const crashed = contentOf(state.image);
      expect(Buffer.compare(disk(crashed), before), `${what}: ${state.description}`).toBe(0);
      const again = checkHere(crashed, "all");
      expect(checkHere(again.bytes).lines, `${what}: ${state.description}`).toEqual([]);
      states += 1;
    }
    expect(states).toBeGreaterThan(2);
  });

  it.skipIf(qemuImg === undefined)(
    "takes the zero bit away where version 2 has none; before, nobody reads there",
    () => {
      images.img("create", "-q", "-f", "qcow2", "-o", "compat=0.10,cluster_size=4k", "old", String(SIZE));
      images.io("old", "write -P 7 0 8k");
      const bytes = images.bytes("old");
      const l1 = Number(new DataView(bytes.buffer).getBigUint64(40));
      const l2 = Number(new DataView(bytes.buffer).getBigUint64(l1) & 0x00fffffffffffe00n);
      const entry = new DataView(bytes.buffer).getBigUint64(l2 + 8);
      const hostile = changed(bytes, [l2 + 8, entry | 1n]);
      const node = openQcow2(new MemoryDriver(hostile), { readOnly: true });
      expect(readBytes(node, 0, CLUSTER)).toEqual(new Uint8Array(CLUSTER).fill(7));
      expect(() => readBytes(node, 0, 2 * CLUSTER)).toThrow(expect.objectContaining({ code: "EIO" }));
      images.put("old", hostile);
      expect(images.tryImg("map", "old").stderr).toContain("Zero cluster entry found in pre-v3 image");
      expect(checkHere(checkHere(hostile, "all").bytes).lines).toEqual([]);
      expect(Buffer.compare(disk(checkHere(hostile, "all").bytes), disk(bytes))).toBe(0);
    },
  );

  it("leaves an image that can be written", () => {
    for (const [, bytes] of DAMAGE) {
      const repaired = checkHere(bytes, "all").bytes;
      const driver = new MemoryDriver(repaired);
      const node = openQcow2(driver);
      writeBytes(node, CLUSTER, new Uint8Array(20 * CLUSTER).fill(9));
      run(node.driver.close());
      expect(checkHere(contentOf(driver.content)).lines).toEqual([]);
    }
  });

  it("takes the marks of corruption and of an unclean end away", () => {
    const marked = changed(image, [72, 3n]);
    const repaired = checkHere(marked, "all");
    expect(new DataView(repaired.bytes.buffer).getBigUint64(72)).toBe(0n);
    expect(new DataView(checkHere(marked).bytes.buffer).getBigUint64(72)).toBe(3n);
  });

  it("does nothing when the L1 table is lost: all data would be given back as leaked", () => {
    const lost = changed(image, [40, 2n ** 40n]);
    const repaired = checkHere(lost, "all");
    expect(repaired.numbers).toBeUndefined();
    expect(repaired.lines).toEqual(["the L1 table is lost, and with it the disk: nothing is repaired"]);
    expect(Buffer.compare(repaired.bytes, lost)).toBe(0);
  });

  it.skipIf(qemuImg === undefined)("gives up snapshots whose tables cannot be read, and keeps the others", () => {
    images.put("snapshots.qcow2", image);
    for (const name of ["one", "two", "three"]) images.img("snapshot", "-c", name, "snapshots.qcow2");
    const bytes = images.bytes("snapshots.qcow2");
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    const table = Number(view.getBigUint64(64));
    view.setBigUint64(table, view.getBigUint64(table) + 512n);
    const { bytes: repaired, lines } = checkHere(bytes, "all");
    expect(lines).toContain("Repairing snapshot 1 (one): its L1 table cannot be read; given up");
    expect(checkHere(repaired).lines).toEqual([]);
    images.put("snapshots.qcow2", repaired);
    expect(images.check("snapshots.qcow2").code).toBe(0);
    const list = images.img("snapshot", "-l", "snapshots.qcow2");
    expect(list).toMatch(/two/);
    expect(list).toMatch(/three/);
    expect(list).not.toMatch(/one/);
    expect(Buffer.compare(images.disk("snapshots.qcow2", "-l", "two"), disk(image))).toBe(0);
  });
});

describe.skipIf(qemuImg === undefined)("a snapshot's L1 table in another table's place", () => {
  it.each([
    ["the header", 0],
    ["the refcount table", AT.table],
    ["a refcount block", AT.block],
    ["the active L1 table", AT.l1],
  ])("is not mended there, but given up (%s)", (_what, offset) => {
    images.put("misplaced.qcow2", image);
    for (const name of ["one", "two"]) images.img("snapshot", "-c", name, "misplaced.qcow2");
    const bytes = images.bytes("misplaced.qcow2").slice();
    const view = new DataView(bytes.buffer);
    view.setBigUint64(Number(view.getBigUint64(64)), BigInt(offset));
    const { bytes: repaired, lines } = checkHere(bytes, "all");
    expect(lines).toContain("Repairing snapshot 1 (one): its L1 table cannot be read; given up");
    expect(lines.filter((line) => line.includes("L1 entry"))).toEqual([]);
    expect(checkHere(repaired).lines).toEqual([]);
    images.put("misplaced.qcow2", repaired);
    expect(images.check("misplaced.qcow2").code).toBe(0);
    expect(Buffer.compare(disk(repaired), disk(image))).toBe(0);
    expect(Buffer.compare(images.disk("misplaced.qcow2", "-l", "two"), disk(image))).toBe(0);
  });
});

describe("a check of a hostile image", () => {
  /** The image in a file that claims to be long, and what it takes to check that. */
  function timed(content: SparseBytes): { ms: number; grownMiB: number } {
    const before = process.memoryUsage().rss;
    const start = process.cpuUsage();
    for (const repair of ["none", "all"] as const) {
      const file = fileNode(new MemoryDriver(content.clone()), repair === "none");
      try {
        run(qcow2Format.check!(file, { repair, report: () => {} }));
      } catch (error) {
        if (!isBlockError(error, "EFBIG")) throw error;
      }
    }
    const { user, system } = process.cpuUsage(start);
    return { ms: (user + system) / 1000, grownMiB: (process.memoryUsage().rss - before) / 2 ** 20 };
  }

  const small = makeImage();
  const L1_ENTRIES = 2 ** 22;
  const CASES: readonly (readonly [what: string, make: () => SparseBytes])[] = [
    [
      "whose L1 table names one L2 table four million times",
      () => {
        const content = SparseBytes.of(changed(small, [36, 0x40], [38, 0], [40, 2n ** 24n]));
        const l1 = new BigUint64Array(L1_ENTRIES).fill(0x0040000000000080n);
        content.write(2 ** 24, new Uint8Array(l1.buffer));
        return content;
      },
    ],
    [
      "with 65,536 snapshots of the longest L1 table",
      () => {
        const content = SparseBytes.of(changed(small, [60, 1], [62, 0], [64, 2n ** 24n]));
        const entry = new DataView(new ArrayBuffer(40));
        entry.setBigUint64(0, BigInt(2 ** 30));
        entry.setUint32(8, L1_ENTRIES);
        for (let index = 0; index < 65_536; index++) content.write(2 ** 24 + index * 40, new Uint8Array(entry.buffer));
        content.truncate(2 ** 31);
        return content;
      },
    ],
    [
      "whose file is a sparse terabyte",
      () => {
        const content = SparseBytes.of(small);
        content.truncate(2 ** 40);
        return content;
      },
    ],
    [
      "with a refcount table that names one block a million times",
      () => {
        const content = SparseBytes.of(changed(small, [48, 2n ** 24n], [56, 0], [58, 2048]));
        content.write(2 ** 24, new Uint8Array(new BigUint64Array(2 ** 20).fill(0x0020000000000000n).buffer));
        return content;
      },
    ],
  ];

  it.each(CASES)("%s is bounded in time and memory", { timeout: 120_000 }, (_what, make) => {
    const { ms, grownMiB } = timed(make());
    expect(ms).toBeLessThan(10_000);
    expect(grownMiB).toBeLessThan(600);
  });
});
