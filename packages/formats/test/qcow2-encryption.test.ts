import { SeededRandom } from "@spindle/base";
import { type BlockNode, IoVector } from "@spindle/block";
import { MemoryDriver, ModelDisk, randomBytes } from "@spindle/testkit";
import { afterAll, describe, expect, it } from "vitest";
import { describeFormat } from "./describe-format.ts";
import { contentOf, createQcow2, openQcow2, PASSWORD, readBytes, run, writeBytes } from "./open-image.ts";
import { QemuImages, qemuImg, qemuIo } from "./qemu-images.ts";

const SIZE = 3 * 1024 * 1024 + 3 * 512;
const KEY = { encrypt: { "key-secret": "sec0" } };
const LUKS = { "encrypt.format": "luks", "encrypt.key-secret": "sec0", "encrypt.iter-time": "1" };
const AES = { "encrypt.format": "aes", "encrypt.key-secret": "sec0" };
const KINDS: readonly Record<string, string>[] = [
  LUKS,
  AES,
  { ...LUKS, cluster_size: "512" },
  { ...LUKS, compat: "0.10", "encrypt.cipher-mode": "cbc", "encrypt.ivgen-alg": "essiv" },
  { ...AES, compat: "0.10", cluster_size: "4k" },
  { ...LUKS, cluster_size: "2M", refcount_bits: "2" },
  { ...LUKS, lazy_refcounts: "on", preallocation: "metadata" },
];

const images = new QemuImages();
afterAll(() => images.remove());

function made(options: Record<string, string>): MemoryDriver {
  const file = new MemoryDriver();
  createQcow2(file, SIZE, options);
  return file;
}

const open = (file: MemoryDriver): BlockNode => openQcow2(file, { options: KEY });

for (const [name, options] of Object.entries({ luks: LUKS, aes: AES })) {
  const empty = new MemoryDriver();
  createQcow2(empty, 0, { ...options, cluster_size: "4k" });
  describeFormat(`qcow2, encrypted with ${name}`, empty, (file) => open(file).driver);
}

/** Random requests to an image and to its model, with everything read back. */
function use(node: BlockNode, model: ModelDisk, seed: number): void {
  const random = new SeededRandom(seed);
  for (let round = 0; round < 25; round++) {
    const offset = random.below(SIZE);
    const length = 1 + random.below(Math.min(random.chance(0.2) ? 700_000 : 40_000, SIZE - offset));
    if (random.chance(0.7)) {
      const bytes = randomBytes(random, length);
      writeBytes(node, offset, bytes);
      model.write(offset, bytes);
    } else {
      run(node.writeZeroes(offset, length, { mayUnmap: random.chance(0.5) }));
      model.writeZeroes(offset, length);
    }
  }
  expect(Buffer.compare(readBytes(node, 0, SIZE), model.read(0, SIZE))).toBe(0);
}

describe.skipIf(qemuImg === undefined || qemuIo === undefined)("an encrypted qcow2 image", () => {
  const secret = ["--object", `secret,id=sec0,data=${PASSWORD}`];
  const byKey = (name: string): string => `driver=qcow2,encrypt.key-secret=sec0,file.filename=${images.path(name)}`;
  const disk = (name: string): Uint8Array => {
    images.img("convert", ...secret, "--image-opts", byKey(name), "-O", "raw", "disk.raw");
    return images.bytes("disk.raw");
  };
  const check = (name: string): number => images.tryImg("check", ...secret, "--image-opts", byKey(name)).code;

  it.each(KINDS.slice(0, 5))("that QEMU has made is read and written: %j", (kind) => {
    const list = Object.entries(kind).map(([key, value]) => `${key}=${value}`);
    images.imgAgain("create", "-q", ...secret, "-f", "qcow2", "-o", list.join(","), "theirs.qcow2", String(SIZE));
    const bytes = randomBytes(new SeededRandom(1), SIZE);
    bytes.fill(0, 200_000, 1_200_000);
    images.put("source.raw", bytes);
    images.img("convert", ...secret, "-n", "-f", "raw", "--target-image-opts", "source.raw", byKey("theirs.qcow2"));
    const file = new MemoryDriver(images.bytes("theirs.qcow2"));
    const node = open(file);
    const model = new ModelDisk(SIZE);
    model.write(0, bytes);
    expect(Buffer.compare(readBytes(node, 0, SIZE), bytes)).toBe(0);
    use(node, model, 3);
    run(node.driver.close());
    images.put("theirs.qcow2", contentOf(file.content));
    expect(check("theirs.qcow2")).toBe(0);
    expect(Buffer.compare(disk("theirs.qcow2"), model.read(0, SIZE))).toBe(0);
  });

  it.each(KINDS)("that is made here is sound for QEMU, which reads and tells the same: %j", (kind) => {
    const file = made(kind);
    images.put("fresh.qcow2", contentOf(file.content));
    expect(check("fresh.qcow2")).toBe(0);
    const node = open(file);
    const model = new ModelDisk(SIZE);
    expect(Buffer.compare(readBytes(node, 0, SIZE), model.read(0, SIZE))).toBe(0);
    use(node, model, 4);
    run(node.truncate(SIZE + 1024 * 1024));
    run(node.driver.snapshots!.create("s", 1, 0));
    writeBytes(node, 0, new Uint8Array(100_000).fill(3));
    run(node.driver.snapshots!.apply("1"));
    expect(Buffer.compare(readBytes(node, 0, SIZE), model.read(0, SIZE))).toBe(0);
    run(node.driver.close());
    images.put("ours.qcow2", contentOf(file.content));
    expect(check("ours.qcow2")).toBe(0);
    expect(Buffer.compare(disk("ours.qcow2").subarray(0, SIZE), model.read(0, SIZE))).toBe(0);
    const info = JSON.parse(images.img("info", "--output=json", "ours.qcow2"));
    const told = openQcow2(file, { withoutData: true, readOnly: true }).driver.information?.();
    expect(told?.["format-specific"]).toEqual(info["format-specific"]);
    expect([told?.encrypted, info.encrypted]).toEqual([true, true]);
  });
});

describe("the data of an encrypted qcow2 image", () => {
  it.each([LUKS, AES])("stands nowhere in the file as it is, nor twice as the same: %j", (kind) => {
    const file = made({ ...kind, cluster_size: "4k" });
    const node = open(file);
    const before = file.length();
    const sector = randomBytes(new SeededRandom(5), 512);
    for (let at = 0; at < 64; at++) writeBytes(node, at * 512, sector);
    run(node.driver.close());
    const bytes = Buffer.from(contentOf(file.content));
    expect(bytes.includes(Buffer.from(sector.subarray(0, 16)))).toBe(false);
    const seen = new Set<string>();
    for (let at = before; at + 512 <= bytes.length; at += 512) {
      const text = bytes.toString("hex", at, at + 512);
      if (!/^0*$/.test(text)) seen.add(text);
    }
    expect(seen.size).toBeGreaterThanOrEqual(64);
  });

  it.each([LUKS, AES])("is told to nobody who would read or write the file by himself: %j", (kind) => {
    const node = open(made(kind));
    writeBytes(node, 0, new Uint8Array(70_000).fill(1));
    expect(run(node.blockStatus(0, 512))).toMatchObject({ data: true, zero: false });
    expect(run(node.blockStatus(0, 512)).hostOffset).toBeUndefined();
    expect(node.driver.clusters).toBeUndefined();
    expect(node.driver.shareableOptions?.()).toBeUndefined();
  });

  it.each([LUKS, AES])("is stored, when it does not get smaller, as all else is: %j", (kind) => {
    const node = open(made(kind));
    const noise = randomBytes(new SeededRandom(6), 65_536);
    const flat = new Uint8Array(65_536).fill(7);
    for (const [at, bytes] of [noise, flat].entries()) writeCompressed(node, at * 65_536, bytes);
    expect(Buffer.compare(readBytes(node, 0, 131_072), Buffer.concat([noise, flat]))).toBe(0);
  });

  it.each([LUKS, AES])("may be a machine's state, of any bytes behind the disk: %j", (kind) => {
    const file = made({ ...kind, cluster_size: "4k" });
    const node = open(file);
    const state = randomBytes(new SeededRandom(8), 1_300_000);
    run(node.writeMachineState(777, IoVector.of(state)));
    run(node.writeMachineState(5, IoVector.of(Uint8Array.of(1, 2, 3))));
    run(node.driver.close());
    const bytes = new Uint8Array(1_300_777);
    run(open(file).readMachineState(0, IoVector.of(bytes)));
    expect([...bytes.subarray(4, 9)]).toEqual([0, 1, 2, 3, 0]);
    expect(Buffer.compare(bytes.subarray(777), state)).toBe(0);
  });

  it("is zeros over a backing file in version 2, too, where they are stored", () => {
    const base = new MemoryDriver();
    createQcow2(base, SIZE, LUKS);
    const below = open(base);
    writeBytes(below, 0, new Uint8Array(SIZE).fill(9));
    const file = new MemoryDriver();
    createQcow2(file, SIZE, { ...AES, compat: "0.10" }, { filename: "base", format: "qcow2" });
    const node = openQcow2(file, { options: KEY, backing: below });
    run(node.writeZeroes(0, 1_300_000, {}));
    const bytes = readBytes(node, 0, SIZE);
    expect(bytes.findIndex((byte) => byte !== 0)).toBe(1_300_000);
    expect(bytes.subarray(1_300_000).every((byte) => byte === 9)).toBe(true);
  });
});

describe("an encrypted qcow2 image's key", () => {
  it.each([
    [LUKS, {}, "Parameter 'encrypt.key-secret' is required for cipher"],
    [AES, {}, "Parameter 'encrypt.key-secret' is required for cipher"],
    [LUKS, { "key-secret": "nobody" }, "No secret with id 'nobody'"],
    [LUKS, { "key-secret": "wrong" }, "Invalid password, cannot unlock any keyslot"],
    [LUKS, { format: "aes" }, "Header reported 'luks' encryption format but options specify 'aes'"],
    [AES, { format: "luks" }, "Header reported 'aes' encryption format but options specify 'luks'"],
    [{}, { format: "luks" }, "No encryption in image header, but options specified format 'luks'"],
    [LUKS, { foo: "x" }, "Parameter 'foo' is unexpected"],
  ])("of %j, told as %j: %s", (kind, encrypt, reason) => {
    const file = made(kind as Record<string, string>);
    expect(() => openQcow2(file, { options: { encrypt } })).toThrow(reason);
  });

  it.each([
    [{ "encrypt.key-secret": "sec0" }, "Parameter 'encrypt.format' is missing"],
    [{ "encrypt.format": "foo" }, "Parameter 'format' does not accept value 'foo'"],
    [{ "encrypt.format": "luks" }, "Parameter 'encrypt.key-secret' is required for cipher"],
    [{ encryption: "on" }, "Parameter 'encrypt.key-secret' is required for cipher"],
    [{ ...AES, encryption: "on" }, "'encrypt.format' and its alias 'encryption' can't be used at the same time"],
    [{ ...AES, "encrypt.cipher-alg": "aes-128" }, "Parameter 'encrypt.cipher-alg' is unexpected"],
    [{ ...AES, compat: "0.10", preallocation: "metadata" }, "preallocation of an encrypted image needs compat=1.1"],
  ])("is needed as QEMU says to create one: %j", (options, reason) => {
    expect(() => made(options as Record<string, string>)).toThrow(reason);
  });

  const AT = 112;
  it.each([
    ["another length", AT + 4, 8, "CRYPTO header extension size 8, but expected size 16"],
    ["an offset inside of a cluster", AT + 12, 0x10200, "is not a multiple of cluster size '65536'"],
    ["an offset beyond all files", AT + 8, 0xffffffff, "encryption header offset is above 2^53 - 1"],
    ["a length of 4 GiB", AT + 20, 0xffffffff, "Encryption header too large"],
    ["the old method", 32, 1, "CRYPTO header extension only expected with LUKS encryption method"],
    ["a place without a header", AT + 12, 0x10000, "Volume is not in LUKS format"],
  ])("is refused where the header names %s", (_what, at, value, reason) => {
    const file = made(LUKS);
    const bytes = new DataView(new ArrayBuffer(4));
    bytes.setUint32(0, value);
    file.content.write(at, new Uint8Array(bytes.buffer));
    expect(() => openQcow2(file, { options: KEY })).toThrow(reason);
  });

  it("stands where nothing is ever written", () => {
    const file = made({ ...LUKS, cluster_size: "4k" });
    const header = contentOf(file.content);
    const view = new DataView(header.buffer);
    const [offset, length] = [Number(view.getBigUint64(AT + 8)), Number(view.getBigUint64(AT + 16))];
    // Its clusters are counted as free: an allocation would take them.
    file.content.write(0x2000 + (offset / 4096) * 2, new Uint8Array((length / 4096) * 2));
    const node = open(file);
    expect(() => {
      for (let at = 0; at < SIZE; at += 65_536) writeBytes(node, at, new Uint8Array(512).fill(1));
    }).toThrow(/encryption header|counted|corrupt/);
    expect(contentOf(file.content).subarray(offset, offset + length)).toEqual(header.subarray(offset, offset + length));
  });
});

function writeCompressed(node: BlockNode, offset: number, bytes: Uint8Array): void {
  run(node.writeCompressed(offset, IoVector.of(bytes)));
}
