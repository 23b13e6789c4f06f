import { SeededRandom } from "@spindle/base";
import { IoVector } from "@spindle/block";
import { describe, expect, it } from "vitest";
import { describeDriver } from "../src/driver-conformance.ts";
import { CHUNK_SIZE, MemoryDriver, randomBytes, SimulatedRunner, SparseBytes } from "../src/index.ts";

describeDriver("memory", () => {
  const runner = new SimulatedRunner(1);
  return {
    *open(length) {
      return new MemoryDriver(length);
    },
    *reopen(closed) {
      return new MemoryDriver((closed as MemoryDriver).content);
    },
    run: (co) => runner.run(co),
  };
});

describe("memory driver", () => {
  it("tells holes from data", () => {
    const runner = new SimulatedRunner(1);
    const driver = new MemoryDriver(10 * CHUNK_SIZE);
    runner.run(driver.write(2 * CHUNK_SIZE + 5, IoVector.of(new Uint8Array(CHUNK_SIZE).fill(1))));
    const first = runner.run(driver.blockStatus(0, driver.length()));
    expect(first).toMatchObject({ length: 2 * CHUNK_SIZE, zero: true, data: false });
    const second = runner.run(driver.blockStatus(first.length, driver.length() - first.length));
    expect(second).toMatchObject({ length: 2 * CHUNK_SIZE, zero: false, data: true, hostOffset: 2 * CHUNK_SIZE });
  });
});

describe("sparse bytes", () => {
  it("shares memory with copies without showing them later writes", () => {
    const random = new SeededRandom(5);
    const original = SparseBytes.of(randomBytes(random, 3 * CHUNK_SIZE + 17));
    const before = original.toBytes();
    const copy = original.clone();
    const copyOfCopy = copy.clone();
    original.write(100, Uint8Array.of(1, 2, 3));
    copy.zero(0, CHUNK_SIZE);
    expect(copyOfCopy.toBytes()).toEqual(before);
    expect(copy.toBytes().subarray(CHUNK_SIZE)).toEqual(before.subarray(CHUNK_SIZE));
    expect([...original.toBytes().subarray(100, 103)]).toEqual([1, 2, 3]);
  });

  it("has one hash for one content, however it came about", () => {
    const bytes = randomBytes(new SeededRandom(6), 5 * CHUNK_SIZE);
    const one = SparseBytes.of(bytes);
    const other = new SparseBytes(5 * CHUNK_SIZE);
    for (let at = 0; at < bytes.length; at += 1000) other.write(at, bytes.subarray(at, at + 1000));
    expect(other.contentHash()).toBe(one.contentHash());
    one.write(7, Uint8Array.of(0));
    expect(other.contentHash()).not.toBe(one.contentHash());
    other.write(7, Uint8Array.of(0));
    expect(other.contentHash()).toBe(one.contentHash());
    other.write(4 * CHUNK_SIZE, new Uint8Array(CHUNK_SIZE));
    one.zero(4 * CHUNK_SIZE, CHUNK_SIZE);
    expect(other.contentHash()).toBe(one.contentHash());
  });

  it("forgets what lies beyond a cut", () => {
    const bytes = SparseBytes.of(new Uint8Array(2 * CHUNK_SIZE).fill(7));
    bytes.truncate(CHUNK_SIZE + 10);
    bytes.truncate(2 * CHUNK_SIZE);
    const after = bytes.toBytes();
    expect(after.subarray(0, CHUNK_SIZE + 10).every((byte) => byte === 7)).toBe(true);
    expect(after.subarray(CHUNK_SIZE + 10).every((byte) => byte === 0)).toBe(true);
  });
});
