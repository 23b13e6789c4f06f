/** The main job as `npm start` runs it: guests, queue workers and copy workers on threads of their own. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createImage, openDisk } from "spindle";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { spindle } from "./program.ts";

const SIZE = 96 * 1024 * 1024;
const folder = mkdtempSync(join(tmpdir(), "spindle-demo-test-"));
const base = join(folder, "base.qcow2");

beforeAll(async () => {
  await createImage(base, { format: "qcow2", size: SIZE });
  await using disk = await openDisk(base);
  for (let offset = 0; offset < SIZE; offset += 4 * 1024 * 1024)
    await disk.write(
      offset,
      new Uint8Array(1024 * 1024).map((_, index) => index * 7 + offset / 4096),
    );
});
afterAll(() => rmSync(folder, { recursive: true }));

describe("spindle demo", () => {
  it.each([
    ["two guests, two workers", ["--guests", "2", "--workers", "2", "--seed", "3"]],
    ["four guests, small copies", ["--guests", "4", "--workers", "1", "--chunk", "64k", "--seed", "4"]],
    ["two guests on packed virtqueues", ["--guests", "2", "--packed", "--seed", "5"]],
  ])("loses nothing with %s, and leaves the base as it is", async (_what, options) => {
    const before = readFileSync(base);
    const { code, stdout, stderr } = await spindle(["demo", "--image", base, "--seconds", "1", "--json", ...options], {
      cwd: folder,
    });
    expect(stderr).toBe("");
    expect(code).toBe(0);
    const result = JSON.parse(stdout);
    expect(result).toMatchObject({ ok: true, sectorsWrong: 0, wrong: [], backingFileGone: true, baseUntouched: true });
    expect(result.sectorsVerified).toBeGreaterThan(SIZE / 512);
    expect(result.phases.before.requests).toBeGreaterThan(0);
    expect(readFileSync(base).equals(before)).toBe(true);
  });

  it("says in one line what it cannot use", async () => {
    const missing = await spindle(["demo", "--image", join(folder, "missing"), "--json"], { cwd: folder });
    expect(missing.code).toBe(1);
    expect(missing.stderr).toMatch(/^spindle: .*No such file or directory\n$/);
    const guests = await spindle(["demo", "--guests", "0"], { cwd: folder });
    expect(guests.code).toBe(1);
    expect(guests.stderr).toMatch(/^spindle: Invalid number of guests '0'.*\n$/);
  });
});
