import * as zlib from "node:zlib";
import { isBlockError, SeededRandom } from "@spindle/base";
import { type CorruptionEvent, IoVector } from "@spindle/block";
import { MemoryDriver, randomBytes, type SparseBytes } from "@spindle/testkit";
import { describe, expect, it } from "vitest";
import { patched, readHostile, sparse, writeHostile } from "./hostile-image.ts";
import { createQcow2, openQcow2, readBytes, run, writeBytes } from "./open-image.ts";
import { QemuImages, qemuImg } from "./qemu-images.ts";

const { deflateRawSync } = zlib;
/** Newer than the oldest Node that the types are for. */
const { zstdCompressSync } = zlib as unknown as { zstdCompressSync(input: Uint8Array): Buffer };

const CLUSTER = 4096;
const SIZE = 64 * CLUSTER;
/** Where our image's parts stand: a fresh image is laid out one after the other. */
const AT = { header: 0, table: 1 * CLUSTER, block: 2 * CLUSTER, l1: 3 * CLUSTER, l2: 4 * CLUSTER, data: 5 * CLUSTER };

/** Data in clusters 0 to 15, zeros in 20 to 23, compressed data in 30. */
function makeImage(options: Record<string, string> = {}): SparseBytes {
  const driver = new MemoryDriver();
  createQcow2(driver, SIZE, { cluster_size: "4k", ...options }, { filename: "base.img", format: "raw" });
  const node = openQcow2(driver);
  const random = new SeededRandom(2);
  writeBytes(node, 0, randomBytes(random, CLUSTER));
  writeBytes(node, CLUSTER, randomBytes(random, 15 * CLUSTER));
  run(node.writeZeroes(20 * CLUSTER, 4 * CLUSTER, { mayUnmap: true }));
  if (options["compression_type"] === undefined)
    run(node.writeCompressed(30 * CLUSTER, IoVector.of(new Uint8Array(CLUSTER).fill(7))));
  run(node.driver.close());
  return driver.content;
}

const image = makeImage();
const entry = (cluster: number): number => AT.l2 + cluster * 8;
const COPIED = 1n << 63n;
/** The byte of the header with the mark of a corrupt image. */
const CORRUPT_BYTE = 79;
const COMPRESSED = 1n << 62n;

it("stands on what it believes of the image's layout", () => {
  const view = new DataView(image.toBytes().buffer);
  expect(view.getBigUint64(AT.l1)).toBe(COPIED | BigInt(AT.l2));
  expect(view.getBigUint64(entry(0))).toBe(COPIED | BigInt(AT.data));
  expect(readHostile(image).errors).toEqual([]);
  expect(writeHostile(image.clone()).errors).toEqual([]);
});

describe("a qcow2 header that means harm", () => {
  it("may be cut off anywhere", () => {
    const bytes = image.toBytes();
    for (let length = 0; length <= 512; length++) {
      for (const verdict of [readHostile(sparse(bytes.slice(0, length))), writeHostile(sparse(bytes.slice(0, length)))])
        expect([length, verdict.opened]).toEqual([length, false]);
    }
  });

  const words = { version: 4, nameLength: 16, clusterBits: 20, encryption: 32, l1Entries: 36 } as const;
  const moreWords = { refcountTableClusters: 56, snapshots: 60, refcountOrder: 96, headerLength: 100 } as const;
  const longs = { nameOffset: 8, size: 24, l1Offset: 40, refcountTableOffset: 48, snapshotsOffset: 64 } as const;
  const features = { incompatible: 72, compatible: 80, autoclear: 88 } as const;
  const limits = [9, 21, 6, 104, 1023, 1024, 65_536, 8 * 2 ** 20, 32 * 2 ** 20, (8 * 2 ** 20) / CLUSTER, 2 ** 22];

  it.each(Object.entries({ ...words, ...moreWords }))("may hold any number in its field %s", (_name, offset) => {
    const values = [0, 1, ...limits.flatMap((limit) => [limit, limit + 1]), 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1];
    for (const value of values) {
      const hostile = patched(image, [[offset, value]]);
      readHostile(hostile);
      writeHostile(hostile.clone());
      hostile.truncate(2 ** 40);
      readHostile(hostile);
      writeHostile(hostile);
    }
  });

  it.each(Object.entries({ ...longs, ...features }))(
    "may hold any number in its field %s (64 bits)",
    (_name, offset) => {
      const powers = [31n, 32n, 40n, 52n, 53n, 56n, 62n, 63n, 64n].flatMap((bit) =>
        [-1n, 0n, 1n].map((by) => 2n ** bit + by),
      );
      const values = [0n, 1n, ...limits.flatMap((limit) => [BigInt(limit), BigInt(limit + 1)]), ...powers];
      for (const value of values) {
        const hostile = patched(image, [[offset, value]]);
        readHostile(hostile);
        writeHostile(hostile.clone());
        hostile.truncate(2 ** 40);
        readHostile(hostile);
        writeHostile(hostile);
      }
    },
  );

  it("may name a backing file that is too long, or an extension that reaches too far", () => {
    expect(readHostile(patched(image, [[16, 1024]])).errors[0]).toMatchObject({ code: "EINVAL" });
    for (const length of [16, 255, 3980, 2 ** 31, 2 ** 32 - 1]) readHostile(patched(image, [[116, length]]));
    expect(readHostile(patched(image, [[116, 2 ** 32 - 1]])).errors[0]?.message).toContain("extension is too large");
    expect(readHostile(patched(image, [[116, 16]])).errors[0]?.code).toBe("EINVAL");
  });

  it("is refused by name for each incompatible feature that is not supported", () => {
    for (let bit = 5; bit < 64; bit++) {
      const verdict = readHostile(patched(image, [[72, 1n << BigInt(bit)]]));
      const name = `feature: ${(1n << BigInt(bit)).toString(16)}`;
      expect(verdict.opened).toBe(false);
      expect(verdict.errors[0]).toMatchObject({ code: "ENOTSUP", message: expect.stringContaining(name) });
    }
  });

  it("is refused with the name that the image itself gives a feature", () => {
    const driver = new MemoryDriver();
    createQcow2(driver, SIZE);
    const table = new Uint8Array(48);
    table[1] = 40;
    table.set(new TextEncoder().encode("time travel"), 2);
    // The first entry of the table of names, which stands behind the header.
    driver.content.write(120, table);
    const verdict = readHostile(patched(driver.content, [[72, 1n << 40n]]));
    expect(verdict.errors[0]).toMatchObject({ code: "ENOTSUP", message: expect.stringContaining("time travel") });
  });

  it.each([
    [1, "Parameter 'encrypt.key-secret' is required for cipher"],
    [2, "Missing CRYPTO header for crypt method 2"],
    [3, "Unsupported encryption method 3"],
  ])("is refused when it tells an encryption (method %i) that it has no key for", (method, message) => {
    expect(readHostile(patched(image, [[32, method]])).errors[0]).toMatchObject({ code: "EINVAL", message });
  });

  it("keeps an image that is marked corrupt from being written, and not from being read", () => {
    for (const mask of [2n, 3n]) {
      const marked = patched(image, [[72, mask]]);
      expect(readHostile(marked).errors).toEqual([]);
      expect(writeHostile(marked)).toMatchObject({ opened: false, errors: [{ code: "EACCES" }] });
    }
  });

  it("is repaired when it is marked dirty and opened for writing, or refused when it cannot be", () => {
    const marked = patched(image, [
      [72, 1n],
      [AT.block, 0],
    ]);
    expect(writeHostile(marked)).toMatchObject({ opened: true, errors: [] });
    expect(new DataView(marked.toBytes().buffer).getBigUint64(72)).toBe(0n);
    const lost = patched(image, [
      [72, 1n],
      [40, 2n ** 40n],
    ]);
    expect(writeHostile(lost)).toMatchObject({ opened: false, errors: [{ code: "EIO" }] });
    expect(new DataView(lost.toBytes().buffer).getBigUint64(72)).toBe(1n);
  });
});

describe("tables that point at each other", () => {
  const pointers: Readonly<Record<string, { readonly offset: number; readonly flag: bigint }>> = {
    "the header's L1 pointer": { offset: 40, flag: 0n },
    "the header's refcount table pointer": { offset: 48, flag: 0n },
    "the refcount table's entry": { offset: AT.table, flag: 0n },
    "another entry of the refcount table": { offset: AT.table + 8, flag: 0n },
    "the L1 entry": { offset: AT.l1, flag: COPIED },
    "the L2 entry": { offset: entry(3), flag: COPIED },
    "the L2 entry, shared,": { offset: entry(3), flag: 0n },
  };
  const own: Readonly<Record<string, number>> = { 40: AT.l1, 48: AT.table, [AT.table]: AT.block, [AT.l1]: AT.l2 };
  const pairs = Object.entries(pointers).flatMap(([name, { offset, flag }]) =>
    Object.entries(AT)
      // An entry of zero names nothing, and that two guest clusters share one of data is not to be seen here.
      .filter(([target]) => !(target === "header" && offset >= 104) && !(name.includes("L2") && target === "data"))
      .filter(([, at]) => own[offset] !== at)
      .map(([target, at]) => ({ name, target, offset, value: flag | BigInt(at) })),
  );

  it.each(pairs)("are not written through: $name at $target", ({ name, target, offset, value }) => {
    const hostile = patched(image, [[offset, value]]);
    readHostile(hostile);
    const before = hostile.toBytes();
    const verdict = writeHostile(hostile);
    expect(verdict.errors.length).toBeGreaterThan(0);
    for (const { code } of verdict.errors) expect(["EIO", "EINVAL"]).toContain(code);
    const after = hostile.toBytes();
    if (!verdict.opened) expect(Buffer.compare(after, before)).toBe(0);
    else {
      // The header says that the image is corrupt, and nothing else has changed there: nobody writes it until it is repaired.
      expect(after[CORRUPT_BYTE]).toBe(2);
      expect(writeHostile(hostile).errors).toMatchObject([{ code: "EACCES" }]);
      after[CORRUPT_BYTE] = 0;
    }
    expect(Buffer.compare(after.subarray(0, 104), before.subarray(0, 104))).toBe(0);
    if (name.includes("L2 entry")) {
      // What the entry points at has been kept as it was, apart from changes that are its own.
      if (target === "header") expect(after.subarray(0, CLUSTER)).toEqual(before.subarray(0, CLUSTER));
      if (target === "table") expect(after.subarray(AT.table, AT.block)).toEqual(before.subarray(AT.table, AT.block));
      expect(verdict.errors.some(({ corrupt }) => corrupt)).toBe(true);
    }
    if (offset >= 104) expect(readHostile(hostile).opened).toBe(true);
  });

  it("are seen when two L1 entries name one L2 table", () => {
    const driver = new MemoryDriver();
    createQcow2(driver, 1024 * 1024, { cluster_size: "512" });
    const node = openQcow2(driver);
    writeBytes(node, 0, randomBytes(new SeededRandom(1), 100_000));
    run(node.driver.close());
    const view = new DataView(driver.content.toBytes().buffer);
    const l1 = Number(view.getBigUint64(40));
    const hostile = patched(driver.content, [[l1 + 8, view.getBigUint64(l1)]]);
    expect(readHostile(hostile).errors).toEqual([]);
    expect(writeHostile(hostile)).toMatchObject({ opened: false, errors: [{ code: "EIO", corrupt: true }] });
  });
});

describe("damage that is met at runtime", () => {
  /** The L2 entry of cluster 3 points at a table, and says that it may be written in place. */
  function damaged(target: number) {
    const driver = new MemoryDriver(patched(image, [[entry(3), COPIED | BigInt(target)]]));
    const events: CorruptionEvent[] = [];
    const node = openQcow2(driver, { corrupted: (event) => events.push(event) });
    return { driver, events, node };
  }

  it.each([
    ["refcount table", AT.table],
    ["refcount block", AT.block],
    ["active L1 table", AT.l1],
    ["active L2 table", AT.l2],
  ])("marks the image, tells of it once, and ends all writes (%s)", (name, target) => {
    const { driver, events, node } = damaged(target);
    writeBytes(node, 0, new Uint8Array(100).fill(1));
    const before = driver.content.toBytes();
    const message = `Preventing invalid write on metadata (overlaps with ${name})`;
    for (let attempt = 0; attempt < 2; attempt++)
      expect(attemptTo(() => writeBytes(node, 3 * CLUSTER, new Uint8Array(CLUSTER)))).toMatchObject({
        code: "EIO",
        context: { corrupt: true },
      });
    expect(events).toEqual([{ message, offset: target, length: CLUSTER, fatal: true }]);
    expect(attemptTo(() => writeBytes(node, 0, new Uint8Array(100)))).toMatchObject({ code: "EIO" });
    expect(attemptTo(() => run(node.flush()))).toMatchObject({ code: "EIO" });
    expect(readBytes(node, 0, 100)).toEqual(new Uint8Array(100).fill(1));
    expect(node.driver.information?.()["format-specific"]?.data).toMatchObject({ corrupt: true });
    run(node.driver.close());
    before[CORRUPT_BYTE] = 2;
    // What was behind the end belongs to nobody.
    expect(Buffer.compare(driver.content.toBytes().subarray(0, before.length), before)).toBe(0);
    expect(attemptTo(() => openQcow2(driver))).toMatchObject({ code: "EACCES" });
    expect(readBytes(openQcow2(driver, { readOnly: true }), 0, 100)).toEqual(new Uint8Array(100).fill(1));
  });

  it("leaves alone what is only read", () => {
    const content = patched(image, [[entry(3), COPIED | BigInt(AT.data + 512)]]);
    const before = content.toBytes();
    const events: CorruptionEvent[] = [];
    const node = openQcow2(new MemoryDriver(content), { readOnly: true, corrupted: (event) => events.push(event) });
    expect(attemptTo(() => readBytes(node, 3 * CLUSTER, 10))).toMatchObject({ code: "EIO" });
    expect(events).toEqual([]);
    expect(Buffer.compare(content.toBytes(), before)).toBe(0);
  });

  it("is found where it would hit what a snapshot needs", () => {
    const images = new QemuImages();
    try {
      images.put("snapshot.qcow2", image.toBytes());
      if (qemuImg === undefined) return;
      images.img("rebase", "-u", "-f", "qcow2", "-b", "", "snapshot.qcow2");
      images.img("snapshot", "-c", "one", "snapshot.qcow2");
      const driver = images.load("snapshot.qcow2");
      const view = new DataView(driver.content.toBytes().buffer);
      const l1 = Number(view.getBigUint64(Number(view.getBigUint64(64))));
      const node = openQcow2(driver);
      // The table is copied now, and the entry in the copy changed behind the image's back.
      writeBytes(node, 0, new Uint8Array(CLUSTER));
      run(node.driver.close());
      const after = new DataView(driver.content.toBytes().buffer);
      const l2 = Number(after.getBigUint64(Number(after.getBigUint64(40))) & 0x00fffffffffffe00n);
      for (const [target, name] of [
        [l1, "inactive L1 table"],
        [AT.l2, "inactive L2 table"],
      ] as const) {
        const again = new MemoryDriver(patched(driver.content, [[l2 + 3 * 8, COPIED | BigInt(target)]]));
        const failure = attemptTo(() => writeBytes(openQcow2(again), 3 * CLUSTER, new Uint8Array(CLUSTER)));
        expect(failure).toMatchObject({ message: expect.stringContaining(name) });
      }
    } finally {
      images.remove();
    }
  });
});

function attemptTo(request: () => unknown): unknown {
  try {
    return request();
  } catch (error) {
    return error;
  }
}

describe("entries that point beyond the end of the file", () => {
  it.each([0n, COPIED])("are not read, and do not make the file grow (flags %i)", (flag) => {
    for (const place of [image.length + CLUSTER * 10, 2 ** 40, 2 ** 52, 2 ** 56 - CLUSTER]) {
      const at = BigInt(place - (place % CLUSTER));
      const hostile = patched(image, [[entry(3), flag | at]]);
      const reading = readHostile(hostile);
      expect(reading.errors.length).toBeGreaterThan(0);
      for (const error of reading.errors) expect(error).toMatchObject({ code: "EIO", corrupt: true });
      writeHostile(hostile);
      expect(hostile.length).toBeLessThan(image.length + 2 * SIZE);
    }
  });

  it.each([3, 511, CLUSTER + 512])("are not read when they are not whole clusters (%i)", (by) => {
    const hostile = patched(image, [[entry(3), BigInt(AT.data + 512 + by - (by % 512))]]);
    expect(readHostile(hostile).errors[0]).toMatchObject({ code: "EIO", corrupt: true });
    writeHostile(hostile);
  });

  it("may be an L2 table's or a refcount block's: then nothing is written", () => {
    for (const offset of [AT.l1, AT.table]) {
      const hostile = patched(image, [[offset, (COPIED * BigInt(offset === AT.l1 ? 1 : 0)) | (1n << 40n)]]);
      readHostile(hostile);
      const before = hostile.toBytes();
      expect(writeHostile(hostile)).toMatchObject({ opened: false, errors: [{ corrupt: true }] });
      expect(Buffer.compare(hostile.toBytes(), before)).toBe(0);
    }
  });
});

describe("compressed clusters that mean harm", () => {
  const sizeShift = 62n - 4n;
  const descriptor = (at: number, sectors: number): bigint =>
    COMPRESSED | (BigInt(sectors - 1) << sizeShift) | BigInt(at);
  const place = 40 * CLUSTER;

  function withStream(stream: Uint8Array, options: Record<string, string> = {}): SparseBytes {
    const sectors = Math.min(16, Math.max(1, Math.ceil(stream.length / 512)));
    const hostile = patched(makeImage(options), [[entry(3), descriptor(place, sectors)]]);
    hostile.write(place, stream);
    return hostile;
  }

  it.each([{}, { compression_type: "zstd" }])("may stand beyond the end of the file, or end there (%o)", (options) => {
    for (const at of [2 ** 30, 2 ** 50, 2 ** 53 - 512, 2 ** 57]) {
      const hostile = patched(makeImage(options), [[entry(3), descriptor(at, 8)]]);
      expect(readHostile(hostile).errors[0]).toMatchObject({ code: "EIO", corrupt: true });
      writeHostile(hostile);
      expect(hostile.length).toBeLessThan(image.length + 2 * SIZE);
    }
    const stream = options.compression_type === "zstd" ? zstdCompressSync : deflateRawSync;
    const cut = stream(randomBytes(new SeededRandom(1), CLUSTER)).subarray(0, 2000);
    expect(readHostile(withStream(cut, options)).errors[0]).toMatchObject({ code: "EIO", corrupt: true });
  });

  it("may give more than a cluster, or less: they are refused, and no more memory is taken", () => {
    const bomb = new Uint8Array(4 * 1024 * 1024);
    const before = process.memoryUsage().rss;
    for (const length of [bomb.length, CLUSTER + 1, CLUSTER - 1, 0]) {
      const bytes = bomb.subarray(0, length);
      for (const hostile of [
        withStream(deflateRawSync(bytes, { level: 9 })),
        withStream(zstdCompressSync(bytes), { compression_type: "zstd" }),
      ])
        expect(readHostile(hostile).errors[0]).toMatchObject({ code: "EIO", corrupt: true });
    }
    // A frame that asks for a window of 2 GiB, and one that says it holds 2^62 bytes.
    for (const head of [
      [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00],
      [0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0x03, 0x00, 0x80, 0x00],
    ])
      expect(readHostile(withStream(Uint8Array.from(head), { compression_type: "zstd" })).errors[0]?.code).toBe("EIO");
    expect(process.memoryUsage().rss - before).toBeLessThan(64 * 1024 * 1024);
  });

  it.each([{}, { compression_type: "zstd" }])("may be garbage (%o)", (options) => {
    const random = new SeededRandom(9);
    const bytes = Uint8Array.from(
      { length: CLUSTER },
      (_, index) => (index % 61) + (random.chance(0.1) ? random.below(100) : 0),
    );
    const stream = new Uint8Array(
      options.compression_type === "zstd" ? zstdCompressSync(bytes) : deflateRawSync(bytes),
    );
    expect(readHostile(withStream(stream, options)).content?.subarray(3 * CLUSTER, 4 * CLUSTER)).toEqual(bytes);
    const hostile = withStream(stream, options);
    let refused = 0;
    for (let round = 0; round < 1000; round++) {
      const mutant = stream.slice();
      for (let change = 0; change < 1 + random.below(4); change++)
        mutant[random.below(mutant.length)] = random.below(256);
      hostile.write(place, mutant);
      const node = openQcow2(new MemoryDriver(hostile.clone()), { readOnly: true });
      try {
        readBytes(node, 3 * CLUSTER, CLUSTER);
      } catch (error) {
        if (!isBlockError(error, "EIO")) throw error;
        refused += 1;
      }
    }
    expect(refused).toBeGreaterThan(100);
  });
});

describe("tables of the largest size", () => {
  it("are opened with bounded memory, whatever they name", () => {
    // 4 Mi entries of an L1 table, each naming a cluster of its own in a file that is mostly hole.
    const entries = 4 * 1024 * 1024;
    const driver = new MemoryDriver();
    createQcow2(driver, SIZE, { cluster_size: "512" });
    const l1 = new Uint8Array(entries * 8);
    const view = new DataView(l1.buffer);
    for (let index = 0; index < entries; index++)
      view.setBigUint64(index * 8, COPIED | BigInt((index + 100_000) * 512));
    driver.content.write(32 * 1024, l1);
    driver.content.truncate((entries + 200_000) * 512);
    const hostile = patched(driver.content, [
      [36, entries],
      [40, 32n * 1024n],
    ]);
    for (const readOnly of [true, false]) {
      const before = process.memoryUsage().rss;
      const node = openQcow2(new MemoryDriver(hostile.clone()), { readOnly });
      readBytes(node, 0, 65_536);
      expect(process.memoryUsage().rss - before).toBeLessThan(64 * 1024 * 1024);
      run(node.driver.close());
    }
  });
});
