/** Images with a data file in the host's files: created, streamed, told of, and opened only where the policy allows it. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { createImage, imageInfo, openDisk } from "../src/index.ts";

const SIZE = 4 * 1024 * 1024;
const folder = mkdtempSync(join(tmpdir(), "spindle-data-file-"));
afterAll(() => rmSync(folder, { recursive: true }));

describe("a data file that an image names", () => {
  it("is made in the image's folder, holds what is written, and is found there again", async () => {
    const path = join(folder, "image.qcow2");
    await createImage(path, { format: "qcow2", size: SIZE, options: { data_file: "data.raw", data_file_raw: "on" } });
    const bytes = new Uint8Array(100_000).fill(7);
    {
      await using disk = await openDisk(path);
      await disk.write(65_536, bytes);
    }
    const data = readFileSync(join(folder, "data.raw"));
    expect(data.length).toBe(SIZE);
    expect(Buffer.compare(data.subarray(65_536, 165_536), bytes)).toBe(0);
    await using again = await openDisk(path, { readOnly: true });
    const found = new Uint8Array(SIZE);
    await again.read(0, found);
    expect(Buffer.compare(found, data)).toBe(0);
  });

  it("gets what is streamed into the image, on several threads", async () => {
    const base = join(folder, "base.raw");
    const content = Buffer.alloc(SIZE, 1);
    content.fill(9, 1_000_000, 3_000_000);
    writeFileSync(base, content);
    const path = join(folder, "overlay.qcow2");
    const backing = { filename: "base.raw", format: "raw" };
    await createImage(path, { format: "qcow2", backing, options: { data_file: "overlay.raw" } });
    await using disk = await openDisk(path);
    await disk.write(2_000_000, new Uint8Array(5000).fill(3));
    await disk.stream({ workers: 2 });
    content.fill(3, 2_000_000, 2_005_000);
    expect(Buffer.compare(readFileSync(join(folder, "overlay.raw")), content)).toBe(0);
  });

  it("is not opened to tell of the image", async () => {
    const path = join(folder, "told.qcow2");
    await createImage(path, { format: "qcow2", size: SIZE, options: { data_file: "gone.raw" } });
    rmSync(join(folder, "gone.raw"));
    const { data } = (await imageInfo(path))["format-specific"] as { data: Record<string, unknown> };
    expect(data).toMatchObject({ "data-file": "gone.raw", "data-file-raw": false });
    await expect(openDisk(path, { readOnly: true })).rejects.toMatchObject({ code: "ENOENT" });
  });

  it("is not opened outside of the image's folder unless that is allowed", async () => {
    const inner = join(folder, "inner");
    mkdirSync(inner);
    const path = join(inner, "attack.qcow2");
    writeFileSync(join(folder, "secret.raw"), Buffer.alloc(SIZE, 5));
    await createImage(path, { format: "qcow2", size: SIZE, options: { data_file: "stand-in.w" } });
    const bytes = readFileSync(path);
    // The same length: only the name is another.
    const at = bytes.indexOf("stand-in.w");
    for (const name of ["../secret.", "/etc/passw", "/dev/null\0"]) {
      bytes.write(name, at, "latin1");
      writeFileSync(path, bytes);
      await expect(openDisk(path, { readOnly: true })).rejects.toMatchObject({
        code: expect.stringMatching(/EACCES|ENOENT/),
      });
      await expect(openDisk(path)).rejects.toMatchObject({ code: expect.stringMatching(/EACCES|ENOENT/) });
    }
    bytes.write("../secret.", at, "latin1");
    writeFileSync(path, bytes);
    writeFileSync(join(folder, "secret."), Buffer.alloc(SIZE, 5));
    await expect(openDisk(path, { readOnly: true })).rejects.toMatchObject({
      code: "EACCES",
      message: expect.stringContaining("names the data file '../secret.'"),
    });
    await using disk = await openDisk(path, { readOnly: true, allowBacking: [folder] });
    expect(disk.length).toBe(SIZE);
  });
});
