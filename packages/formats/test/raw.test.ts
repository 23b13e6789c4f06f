import { BlockNode, type Children, DriverRegistry } from "@spindle/block";
import { CHUNK_SIZE, MemoryDriver, SimulatedRunner } from "@spindle/testkit";
import { describeDriver } from "@spindle/testkit/driver-conformance";
import { describe, expect, it } from "vitest";
import { qcow2Format, rawFormat } from "../src/index.ts";
import { createQcow2, environment, fileNode, readBytes, run, writeBytes } from "./open-image.ts";

function openRaw(file: MemoryDriver, readOnly = false): BlockNode {
  const children: Children = { file: fileNode(file, readOnly), backing: null };
  const inFlight = { ticket: () => 0, oldestTicket: () => Number.POSITIVE_INFINITY };
  const driver = run(rawFormat.open({ nodeName: "raw", options: {}, children, readOnly, environment, inFlight }));
  return new BlockNode({ name: "raw", driver, children, readOnly, tracker: null });
}

describeDriver("raw", () => {
  const runner = new SimulatedRunner(1);
  const files = new WeakMap<object, MemoryDriver>();
  const open = (file: MemoryDriver) => {
    const { driver } = openRaw(file);
    files.set(driver, file);
    return driver;
  };
  return {
    *open(length) {
      return open(new MemoryDriver(length));
    },
    *reopen(closed) {
      return open(new MemoryDriver(files.get(closed)!.content));
    },
    run: (co) => runner.run(co),
  };
});

describe("a raw image", () => {
  it.each([0, 1, 511, 512, 513, 70_001])(
    "of %i bytes is a disk of whole sectors, with zeros behind the file's end",
    (length) => {
      const file = new MemoryDriver(new Uint8Array(length).fill(9));
      const node = openRaw(file);
      const size = Math.ceil(length / 512) * 512;
      expect(node.length).toBe(size);
      const bytes = readBytes(node, 0, size);
      expect(bytes.every((byte, index) => byte === (index < length ? 9 : 0))).toBe(true);
      if (size === 0) return;
      expect(readBytes(node, size - 1, 1)).toEqual(Uint8Array.of(length === size ? 9 : 0));
      for (let at = 0; at < size; ) {
        const extent = run(node.blockStatus(at, size - at));
        if (at >= length) expect(extent).toMatchObject({ allocated: true, zero: true, data: false });
        at += extent.length;
      }
      expect(file.length()).toBe(length);
      writeBytes(node, size - 2, Uint8Array.of(1, 2));
      expect(node.length).toBe(size);
      expect(readBytes(node, size - 2, 2)).toEqual(Uint8Array.of(1, 2));
    },
  );

  it("tells the file's holes, and where its data stands in the file", () => {
    const file = new MemoryDriver(10 * CHUNK_SIZE);
    const node = openRaw(file);
    writeBytes(node, 3 * CHUNK_SIZE, new Uint8Array(2 * CHUNK_SIZE).fill(1));
    const kinds: unknown[] = [];
    for (let at = 0; at < node.length; ) {
      const extent = run(node.blockStatus(at, node.length - at));
      kinds.push([at / CHUNK_SIZE, extent.zero, extent.hostOffset]);
      expect(extent.allocated).toBe(true);
      at += extent.length;
    }
    expect(kinds).toEqual([
      [0, true, undefined],
      [3, false, 3 * CHUNK_SIZE],
      [5, true, undefined],
    ]);
  });

  it("gives space back, also where the file ends before the disk", () => {
    const file = new MemoryDriver(new Uint8Array(5 * CHUNK_SIZE + 100).fill(1));
    const node = openRaw(file);
    run(node.discard(CHUNK_SIZE, node.length - CHUNK_SIZE));
    expect(file.content.allocated).toBe(CHUNK_SIZE);
    expect(file.length()).toBe(5 * CHUNK_SIZE + 100);
  });

  it("is not written when it is opened read-only, nor by being closed", () => {
    const node = openRaw(new MemoryDriver(1024), true);
    expect(() => writeBytes(node, 0, new Uint8Array(1))).toThrow("read-only");
    run(node.driver.close());
  });

  it("is made as long as it is asked for, in whole sectors", () => {
    const file = new MemoryDriver();
    run(rawFormat.create!(fileNode(file), { size: 1_000_001, options: {} }, environment));
    expect(file.length()).toBe(1_000_448);
    // The first block, for those who probe the file's alignment.
    expect(file.content.allocated).toBe(4096);
  });
});

describe("probing", () => {
  const registry = new DriverRegistry([qcow2Format, rawFormat]);
  const image = new MemoryDriver();
  createQcow2(image, 1024 * 1024);
  const head = image.content.toBytes().subarray(0, 512);

  it("knows a qcow2 image of version 2 or 3 by its first bytes", () => {
    expect(registry.probe(head)).toBe("qcow2");
    const second = head.slice();
    second[7] = 2;
    expect(registry.probe(second)).toBe("qcow2");
    expect(registry.probe(second.subarray(0, 8))).toBe("qcow2");
  });

  it("takes for raw whatever is no image that it knows", () => {
    const first = head.slice();
    first[7] = 1;
    for (const bytes of [first, head.subarray(0, 7), head.subarray(1), new Uint8Array(512), new Uint8Array(0)])
      expect(registry.probe(bytes)).toBe("raw");
  });

  it("looks at a slice of a larger buffer in the right place", () => {
    const larger = new Uint8Array(1024);
    larger.set(head, 100);
    expect(registry.probe(larger.subarray(100, 612))).toBe("qcow2");
  });
});
