/** Options with which a qcow2 image is opened: that they do what they say, and what is said of those that cannot be. */
import { ByteView } from "@spindle/base";
import { IoVector } from "@spindle/block";
import { MemoryDriver } from "@spindle/testkit";
import { describe, expect, it } from "vitest";
import { qcow2OpenOptions } from "../src/qcow2/open-options.ts";
import { readHeader } from "../src/qcow2/read-header.ts";
import { createQcow2, fileNode, openQcow2, readBytes, run, writeBytes } from "./open-image.ts";

const SIZE = 8 * 1024 * 1024;
const CLUSTER = 65_536;
const L1_OFFSET = 3 * CLUSTER;

function newImage(options: Record<string, string> = {}): MemoryDriver {
  const driver = new MemoryDriver();
  createQcow2(driver, SIZE, options);
  return driver;
}

/** Whether the image in the file is marked as one whose counts may be behind. */
function isDirty(driver: MemoryDriver): boolean {
  const bytes = new ByteView(readBytes(fileNode(driver), 72, 8));
  return (bytes.u64be(0, "features") & 1) === 1;
}

describe("options of an open qcow2 image", () => {
  it("make refcounts lazy, or exact, whatever the image says", () => {
    for (const inImage of ["on", "off"])
      for (const asked of [true, false]) {
        const driver = newImage({ lazy_refcounts: inImage });
        const node = openQcow2(driver, { options: { "lazy-refcounts": asked } });
        writeBytes(node, 0, new Uint8Array(CLUSTER).fill(1));
        run(node.flush());
        expect(isDirty(driver)).toBe(asked);
        run(node.driver.close());
        expect(isDirty(driver)).toBe(false);
      }
  });

  it("let an image be opened whose tables overlap, where that kind is not looked after", () => {
    const driver = newImage();
    const entry = new ByteView(new Uint8Array(8));
    // The first L2 table is said to stand where the L1 table does.
    entry.setU64be(0, L1_OFFSET);
    run(fileNode(driver).write(L1_OFFSET, IoVector.of(entry.bytes)));
    expect(() => openQcow2(driver)).toThrow("two tables stand in cluster 3");
    expect(() => openQcow2(driver, { options: { "overlap-check": { template: "all", "active-l1": true } } })).toThrow();
    for (const check of ["none", "constant", { template: "all", "active-l2": false }])
      expect(openQcow2(driver, { options: { "overlap-check": check } }).length).toBe(SIZE);
  });

  it("name what is looked after in one of two ways, or in both alike", () => {
    const header = run(readHeader(fileNode(newImage())));
    const checks = (given: object): boolean => qcow2OpenOptions({ "overlap-check": given }, header).checks("active-l1");
    expect(checks({ "": "none", template: "none", "active-l1": true })).toBe(true);
    expect(checks({ "": "constant" })).toBe(true);
    expect(() => checks({ "": "all", template: "none" })).toThrow(
      "Conflicting values for qcow2 options 'overlap-check' ('all') and 'overlap-check.template' ('none')",
    );
  });

  it("divide one size of all caches", () => {
    const header = run(readHeader(fileNode(newImage())));
    const sizes = (options: Record<string, number>): unknown[] => {
      const { l2CacheBytes, refcountCacheBytes } = qcow2OpenOptions(options, header);
      return [l2CacheBytes, refcountCacheBytes];
    };
    expect(sizes({})).toEqual([undefined, undefined]);
    expect(sizes({ "cache-size": 10 * CLUSTER, "l2-cache-size": 4 * CLUSTER })).toEqual([4 * CLUSTER, 6 * CLUSTER]);
    expect(sizes({ "cache-size": 10 * CLUSTER, "refcount-cache-size": CLUSTER })).toEqual([9 * CLUSTER, CLUSTER]);
    // One table maps all of the disk.
    expect(sizes({ "cache-size": 10 * CLUSTER })).toEqual([CLUSTER, 9 * CLUSTER]);
    expect(sizes({ "cache-size": 2 * CLUSTER })).toEqual([0, 2 * CLUSTER]);
  });
});
