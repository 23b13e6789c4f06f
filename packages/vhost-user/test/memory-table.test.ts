import { mkdtempSync, openSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sharingCalls } from "@spindle/host-node";
import { afterAll, describe, expect, it } from "vitest";
import { MemoryTable } from "../src/memory-table.ts";
import type { MemoryRegion } from "../src/message.ts";

const PAGE = 4096;
const calls = sharingCalls();
const folder = mkdtempSync(join(tmpdir(), "spindle-memory-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const openDescriptors = (): number => readdirSync("/proc/self/fd").length;
const mappings = (): number => readdirSync("/proc/self/map_files").length;
const file = (pages: number): number => calls.createMemoryFile("guest", pages * PAGE);

function region(guest: number, pages: number, more: Partial<MemoryRegion> = {}): MemoryRegion {
  const userAddress = 0x5000_0000_0000 + guest * PAGE;
  return { guestAddress: guest * PAGE, length: pages * PAGE, userAddress, fileOffset: 0, ...more };
}

describe("a memory table", () => {
  it("maps files at their offsets, and translates the front end's addresses", () => {
    const fd = file(8);
    const kept = openSync(`/proc/self/fd/${fd}`, "r+");
    const table = MemoryTable.map([region(16, 4, { fileOffset: 2 * PAGE })], [fd]);
    const [piece] = table.pieces;
    expect(piece).toMatchObject({ guestBase: 16 * PAGE, length: 4 * PAGE });
    new Uint8Array(calls.view(piece?.address ?? 0, PAGE))[6] = 0x34;
    expect(table.read16(16 * PAGE + 6)).toBe(0x34);
    expect(table.read16(20 * PAGE - 2)).toBe(0);
    expect(table.read16(20 * PAGE - 1)).toBeUndefined();
    expect(table.guestAddressOf(0x5000_0000_0000 + 16 * PAGE + 100)).toBe(16 * PAGE + 100);
    expect(table.guestAddressOf(0x5000_0000_0000 + 20 * PAGE)).toBeUndefined();
    table.unmap();
    calls.close(kept);
  });

  it("cuts large regions where no ring and no view reaches across", () => {
    const fd = calls.createMemoryFile("large", 5 * 2 ** 30);
    const table = MemoryTable.map([region(2 ** 18 / 2, 5 * 2 ** 18)], [fd]);
    const pieces = table.pieces.map(({ guestBase, length }) => [guestBase / 2 ** 30, length / 2 ** 30]);
    expect(pieces).toEqual([
      [0.5, 1.5],
      [2, 2],
      [4, 1.5],
    ]);
    table.unmap();
  });

  it.each([
    ["a file for each region", [region(0, 1), region(1, 1)], 1],
    ["no more files than regions", [region(0, 1)], 2],
    ["no empty region", [region(0, 0)], 1],
    ["whole pages: the guest's address", [region(0, 1, { guestAddress: 1 })], 1],
    ["whole pages: the length", [region(0, 1, { length: 4097 })], 1],
    ["whole pages: the front end's address", [region(0, 1, { userAddress: 8 })], 1],
    ["whole pages: the place in the file", [region(0, 1, { fileOffset: 512 })], 1],
    ["nothing beyond the end of the file", [region(0, 5)], 1],
    ["nothing beyond the end of the file, from an offset", [region(0, 4, { fileOffset: PAGE })], 1],
    ["no overflow", [region(0, 1, { guestAddress: 2 ** 53 - PAGE })], 1],
    ["no overlap for the guest", [region(0, 2), region(1, 2, { userAddress: 0 })], 2],
    ["no overlap for the front end", [region(0, 2), region(2, 2, { userAddress: region(1, 1).userAddress })], 2],
  ] as const)("takes %s, and leaks nothing otherwise", (_name, regions, files) => {
    const before = [openDescriptors(), mappings()];
    const descriptors = Array.from({ length: files }, () => file(4));
    expect(() => MemoryTable.map(regions, descriptors)).toThrow(expect.objectContaining({ code: "EINVAL" }));
    expect([openDescriptors(), mappings()]).toEqual(before);
  });

  it("takes only files, and only such that may be written", () => {
    const path = join(folder, "file");
    writeFileSync(path, new Uint8Array(4 * PAGE));
    for (const name of [folder, "/dev/zero", "/dev/null"]) {
      expect(() => MemoryTable.map([region(0, 1)], [openSync(name, "r")]), name).toThrow(
        expect.objectContaining({ code: "EINVAL" }),
      );
    }
    expect(() => MemoryTable.map([region(0, 1)], [openSync(path, "r")])).toThrow(
      expect.objectContaining({ code: "EINVAL" }),
    );
    expect(() => MemoryTable.map([region(0, 1)], [calls.createEvent()])).toThrow(
      expect.objectContaining({ code: "EINVAL" }),
    );
  });
});
