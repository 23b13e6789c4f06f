import { BlockError, isBlockError, SeededRandom } from "@spindle/base";
import { type BlockNode, IoVector } from "@spindle/block";
import { FaultyDriver, MemoryDriver, randomBytes, type SparseBytes } from "@spindle/testkit";
import { afterAll, describe, expect, it } from "vitest";
import { createQcow2, openQcow2, readBytes, run, writeBytes } from "./open-image.ts";
import { QemuImages, qemuImg } from "./qemu-images.ts";

const images = new QemuImages();
afterAll(() => images.remove());

/** A disk of which some bytes are not known, because a request that would have changed them has failed. */
class UncertainDisk {
  readonly #bytes: Uint8Array;
  readonly #uncertain: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes.slice();
    this.#uncertain = new Uint8Array(bytes.length);
  }

  request(offset: number, bytes: Uint8Array, failed: boolean): void {
    if (!failed) this.#bytes.set(bytes, offset);
    this.#uncertain.fill(failed ? 1 : 0, offset, offset + bytes.length);
  }

  expectSame(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; at++)
      if (bytes[at] !== this.#bytes[at] && this.#uncertain[at] === 0) throw new Error(`byte ${at} is wrong`);
  }
}

/** Whether a request fails, which must be with a BlockError. */
function fails(request: () => void): boolean {
  try {
    request();
    return false;
  } catch (error) {
    if (!isBlockError(error)) throw error;
    return true;
  }
}

/** Requests that reach every kind of write to the file. */
function useDisk(node: BlockNode, disk: UncertainDisk, rounds: number): void {
  const random = new SeededRandom(5);
  const { length: size, driver } = node;
  const { clusterSize } = driver;
  for (let round = 0; round < rounds; round++) {
    // The first and the last request are for clusters that are not there.
    const isNew = round === 0 || round === rounds - 1;
    const offset = isNew ? size - 80_000 : random.below(size);
    const length = isNew ? 70_000 : 1 + random.below(Math.min(60_000, size - offset));
    const kind = isNew ? 0 : round % 5;
    if (kind < 2) {
      const bytes = randomBytes(random, length);
      disk.request(
        offset,
        bytes,
        fails(() => writeBytes(node, offset, bytes)),
      );
    } else if (kind === 2) {
      const zeros = new Uint8Array(length);
      disk.request(
        offset,
        zeros,
        fails(() => run(node.writeZeroes(offset, length, { mayUnmap: true }))),
      );
    } else if (kind === 3) fails(() => run(node.flush()));
    else {
      const at = offset - (offset % clusterSize);
      const bytes = new Uint8Array(Math.min(clusterSize, size - at)).fill(round);
      disk.request(
        at,
        bytes,
        fails(() => run(node.writeCompressed(at, IoVector.of(bytes)))),
      );
    }
  }
}

function expectSound(content: SparseBytes, codes: readonly number[] = [0, 3]): void {
  images.put("image.qcow2", content.toBytes());
  const { code, text } = images.check("image.qcow2");
  expect(codes, text).toContain(code);
}

function makeBase(size: number, options: Record<string, string>, written: number) {
  const driver = new MemoryDriver();
  createQcow2(driver, size, options);
  const node = openQcow2(driver);
  const random = new SeededRandom(1);
  for (let at = 0; at < size && driver.length() < written; at += 50_000)
    writeBytes(node, at, randomBytes(random, Math.min(40_000, size - at)));
  run(node.driver.close());
  return { content: driver.content, bytes: readBytes(node, 0, size) };
}

function tableOffset(content: SparseBytes): bigint {
  const field = new DataView(new ArrayBuffer(8));
  content.read(48, new Uint8Array(field.buffer));
  return field.getBigUint64(0);
}

describe.skipIf(qemuImg === undefined).each([
  { what: "4 KiB clusters", cluster: "4k", size: 400_384, written: 250_000, rounds: 14 },
  { what: "version 2", cluster: "16k", compat: "0.10", size: 400_384, written: 250_000, rounds: 14 },
  // 64 blocks of 64 clusters of 512 bytes: the table counts 2 MiB.
  { what: "a refcount table that grows", cluster: "512", bits: "64", size: 2_900_480, written: 2_040_000, rounds: 4 },
])("when the image file fails at any one request ($what)", ({ cluster, compat, bits, size, written, rounds }) => {
  const grows = bits !== undefined;
  const options = { cluster_size: cluster, compat: compat ?? "1.1", refcount_bits: bits ?? "16" };
  const base = makeBase(size, options, written);

  it.each([
    ["once", false],
    ["from then on", true],
  ])("%s, what was acknowledged is kept and the image stays sound", (_how, sticky) => {
    let grown = 0;
    for (let nth = 1, failures = 1; failures > 0; nth++) {
      const storage = new MemoryDriver(base.content.clone());
      const file = new FaultyDriver(storage);
      const node = openQcow2(file);
      const disk = new UncertainDisk(base.bytes);
      const reached = (["half", "nothing", "all"] as const)[nth % 3]!;
      const operations = ["write", "writeZeroes", "flush", "read"] as const;
      const disarm = file.fail({ nth, sticky, reached, code: "ENOSPC", operations });
      useDisk(node, disk, rounds);
      failures = file.failures;
      const isChecked = nth % 10 === 0 || (grows && nth < 30);
      if (isChecked) expectSound(storage.content);
      disarm();
      disk.expectSame(readBytes(node, 0, size));
      run(node.driver.close());
      if (tableOffset(storage.content) !== tableOffset(base.content)) grown += 1;
      if (!isChecked) continue;
      const again = openQcow2(storage);
      disk.expectSame(readBytes(again, 0, size));
      run(again.driver.reclaimLeaks!());
      run(again.driver.close());
      expectSound(storage.content, [0]);
    }
    expect(grown > 0).toBe(grows);
  });
});

describe("a failure", () => {
  it("of the file is the request's failure, and the next request is served", () => {
    const storage = new MemoryDriver();
    createQcow2(storage, 1_000_000);
    const file = new FaultyDriver(storage);
    const node = openQcow2(file);
    file.fail({ operations: ["write"], code: "ENOSPC" });
    expect(() => writeBytes(node, 0, new Uint8Array(512))).toThrow(BlockError);
    writeBytes(node, 0, new Uint8Array(512).fill(1));
    expect(readBytes(node, 0, 512)).toEqual(new Uint8Array(512).fill(1));
  });
});
