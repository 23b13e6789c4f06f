import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { MiB } from "@spindle/base";
import { createImage, imageChainInfo, imageInfo } from "spindle";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Scratch } from "./scratch.ts";

describe("creating images", () => {
  let scratch: Scratch;
  beforeEach(() => {
    scratch = new Scratch();
  });
  afterEach(() => scratch[Symbol.dispose]());

  it("takes the size from the backing file", async () => {
    writeFileSync(scratch.path("base.raw"), new Uint8Array(MiB + 1));
    const backing = { filename: "base.raw", format: "raw" };
    const created = await createImage(scratch.path("top.qcow2"), { format: "qcow2", backing });
    expect(created.size).toBe(MiB + 512);
    const infos = await imageChainInfo(scratch.path("top.qcow2"));
    expect(infos.map(({ format }) => format)).toEqual(["qcow2", "raw"]);
    expect(infos[0]?.["virtual-size"]).toBe(MiB + 512);
  });

  it("passes options on to the format", async () => {
    const options = { cluster_size: "4k", refcount_bits: "8" };
    await createImage(scratch.path("new.qcow2"), { format: "qcow2", size: MiB, options });
    expect(await imageInfo(scratch.path("new.qcow2"))).toMatchObject({
      "cluster-size": 4096,
      "format-specific": { data: { "refcount-bits": 8 } },
    });
  });

  it("leaves nothing behind when it fails, and no file that was there is removed", async () => {
    const bad = { format: "qcow2", size: MiB, options: { cluster_size: "3k" } };
    await expect(createImage(scratch.path("new.qcow2"), bad)).rejects.toMatchObject({ code: "EINVAL" });
    expect(existsSync(scratch.path("new.qcow2"))).toBe(false);
    writeFileSync(scratch.path("old.qcow2"), "precious");
    const backing = { filename: "missing.raw", format: "raw" };
    const failed = createImage(scratch.path("old.qcow2"), { format: "qcow2", backing });
    await expect(failed).rejects.toMatchObject({ code: "ENOENT" });
    expect(readFileSync(scratch.path("old.qcow2"), "utf8")).toBe("precious");
  });

  it("refuses itself as its backing file, formats that it does not know, and a size that is missing", async () => {
    const path = scratch.path("new.qcow2");
    const itself = { filename: "new.qcow2", format: "qcow2" };
    await expect(createImage(path, { format: "qcow2", backing: itself })).rejects.toThrow(/same filename/);
    await expect(createImage(path, { format: "qcow3", size: 1 })).rejects.toThrow(/Unknown file format/);
    await expect(createImage(path, { format: "throttle", size: 1 })).rejects.toMatchObject({ code: "ENOTSUP" });
    await expect(createImage(path, { format: "qcow2" })).rejects.toThrow(/size/);
    await expect(createImage(path, { format: "raw", size: 1, backing: itself })).rejects.toThrow(/not supported/);
  });

  it("looks at an image without opening what the image names", async () => {
    const backing = { filename: "/dev/null", format: "raw" };
    await createImage(scratch.path("new.qcow2"), { format: "qcow2", size: MiB, backing, unsafe: true });
    expect(await imageInfo(scratch.path("new.qcow2"))).toMatchObject({ "backing-filename": "/dev/null" });
    await expect(imageChainInfo(scratch.path("new.qcow2"))).rejects.toMatchObject({ code: "EACCES" });
  });
});
