import { statSync } from "node:fs";
import { MiB, SeededRandom } from "@spindle/base";
import { randomBytes } from "@spindle/testkit";
import { peer } from "@spindle/testkit/peers";
import { convertImage, createImage, imageInfo, measureImage, openDisk, Session } from "spindle";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Scratch } from "./scratch.ts";

const qemuImg = peer("qemu-img");
const SIZE: number = 24 * MiB;
const secrets = { sec0: "the top's", sec1: new TextEncoder().encode("the base's") };
const luks = (secret: string) => ({
  "encrypt.format": "luks",
  "encrypt.key-secret": secret,
  "encrypt.iter-time": "1",
});

describe("an encrypted image", () => {
  let scratch: Scratch;
  let content: Uint8Array;
  beforeEach(async () => {
    scratch = new Scratch();
    content = randomBytes(new SeededRandom(1), SIZE);
    content.fill(0, 3 * MiB, 7 * MiB);
    await createImage(scratch.path("base.qcow2"), { format: "qcow2", size: SIZE, options: luks("sec1"), secrets });
    await using disk = await openDisk(scratch.path("base.qcow2"), { options: key("base.qcow2", "sec1"), secrets });
    await disk.write(0, content.subarray(0, 3 * MiB));
    await disk.write(7 * MiB, content.subarray(7 * MiB));
  });
  afterEach(() => scratch[Symbol.dispose]());

  const key = (name: string, secret: string) => ({
    driver: "qcow2",
    file: { driver: "file", filename: scratch.path(name) },
    encrypt: { "key-secret": secret },
  });

  /** Streams what is below the top into it, while a guest writes, and compares every byte. */
  async function stream(top: { readonly options: Record<string, string>; readonly secret: string | undefined }) {
    await createImage(scratch.path("top.qcow2"), {
      format: "qcow2",
      backing: { filename: "base.qcow2", format: "qcow2" },
      options: top.options,
      secrets,
    });
    const image = key("top.qcow2", top.secret ?? "sec0");
    const options = { ...image, backing: { driver: "qcow2", encrypt: { "key-secret": "sec1" } } };
    await using disk = await openDisk(scratch.path("top.qcow2"), { options, secrets, workers: 2 });
    const job = disk.stream({ workers: 2, chunk: MiB });
    const mine = Buffer.alloc(5000, 0xee);
    for (let at = 777; at + mine.length < SIZE; at += MiB) {
      await disk.write(at, mine);
      content.set(mine, at);
    }
    const { statistics } = await job;
    expect(Buffer.compare(await disk.read(0, SIZE), content)).toBe(0);
    expect(await disk.info()).not.toHaveProperty("backing-filename");
    return statistics;
  }

  it.each([
    ["from an encrypted one into a plain one", {}, undefined, "the chain can only be read on the owner's thread"],
    ["from one with a key into one with another", luks("sec0"), "sec0", "'qcow2' images are not made of clusters"],
    ["into one of the old kind", { "encrypt.format": "aes", "encrypt.key-secret": "sec0" }, "sec0", undefined],
  ])("is streamed %s by a job with workers, and shows what it showed", async (_what, options, secret, because) => {
    const statistics = await stream({ options: options as Record<string, string>, secret });
    expect(statistics).toMatchObject({
      copier: "local",
      ...(because === undefined ? {} : { "local-because": because }),
    });
    if (qemuImg === undefined) return;
    const objects = Object.entries({ sec0: secrets.sec0 }).flatMap(([id, data]) => [
      "--object",
      `secret,id=${id},data=${data}`,
    ]);
    const name = `driver=qcow2,file.filename=top.qcow2${secret === undefined ? "" : `,encrypt.key-secret=${secret}`}`;
    scratch.tool(qemuImg, "check", ...objects, "--image-opts", name);
    scratch.tool(qemuImg, "convert", ...objects, "--image-opts", name, "-O", "raw", "top.raw");
    await using disk = await openDisk(scratch.path("top.raw"), { format: "raw", readOnly: true });
    expect(Buffer.compare(await disk.read(0, SIZE), content)).toBe(0);
  });

  it("is served to other threads by its owner alone", async () => {
    await using session = new Session({ secrets });
    const node = await session.run(session.graph.open(key("base.qcow2", "sec1")));
    expect(node.driver.clusters).toBeUndefined();
    expect((await session.run(node.blockStatus(0, 65_536))).hostOffset).toBeUndefined();
  });

  it.each(["qcow2", "luks"])("is converted to %s with a new key, whose length was told before", async (format) => {
    const prefix = format === "qcow2" ? "encrypt." : "";
    const own = { [`${prefix}key-secret`]: "sec0", [`${prefix}iter-time`]: "1" };
    const options = format === "qcow2" ? { ...own, "encrypt.format": "luks" } : own;
    const source = { filename: "base", options: key("base.qcow2", "sec1") };
    const { required } = await measureImage(source, { format, options, secrets });
    await convertImage(source, scratch.path("copy"), { format, options, secrets });
    expect(Math.abs(statSync(scratch.path("copy")).size - required)).toBeLessThan(65_536);
    const file = { driver: "file", filename: scratch.path("copy") };
    const opened = format === "qcow2" ? key("copy", "sec0") : { driver: "luks", file, "key-secret": "sec0" };
    await using disk = await openDisk("copy", { options: opened, secrets });
    expect(Buffer.compare(await disk.read(0, SIZE), content)).toBe(0);
  });

  it("tells what it is to those who have no key, and is not compressed", async () => {
    expect(await imageInfo(scratch.path("base.qcow2"))).toMatchObject({ encrypted: true, "virtual-size": SIZE });
    await expect(openDisk(scratch.path("base.qcow2"))).rejects.toThrow("Parameter 'encrypt.key-secret' is required");
    const source = { filename: "base", options: key("base.qcow2", "sec1") };
    const copy = { format: "qcow2", options: luks("sec0"), secrets, compress: true };
    await expect(convertImage(source, scratch.path("copy"), copy)).rejects.toThrow(
      "Compression and encryption not supported at the same time",
    );
  });
});
