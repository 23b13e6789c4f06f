/** Secrets and encrypted images on the command line: what is printed is what qemu-img prints. */
import { writeFileSync } from "node:fs";
import { peer } from "@spindle/testkit/peers";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { run, Scratch, spindle } from "./program.ts";

const qemuImg = peer("qemu-img");

/** Split at spaces. */
const words = (line: string): string[] => line.split(" ");

describe.skipIf(qemuImg === undefined)("as qemu-img, with secrets", () => {
  const scratch = new Scratch();
  const options = { cwd: scratch.folder };
  const both = (argv: readonly string[]) =>
    Promise.all([spindle(["--as", "qemu-img", ...argv], options), run([qemuImg as string, ...argv], options)]);

  beforeAll(async () => {
    writeFileSync(scratch.path("password"), "abc");
    const luks =
      "--object secret,id=s,file=password -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=1";
    await spindle(words(`create -q ${luks} luks.qcow2 4M`), options);
    await spindle(words(`create -q ${luks},encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv essiv.qcow2 4M`), options);
    await spindle(
      words("create -q --object secret,id=s,file=password -f luks -o key-secret=s,iter-time=1 a.luks 1M"),
      options,
    );
    scratch.tool(qemuImg as string, ..."create -q -f qcow2 plain.qcow2 4M".split(" "));
    const aes =
      "create -q --object secret,id=s,data=abc -f qcow2 -o encrypt.format=aes,encrypt.key-secret=s aes.qcow2 4M";
    scratch.tool(qemuImg as string, ...words(aes));
  });
  afterAll(() => scratch[Symbol.dispose]());

  const KEY = "--object secret,id=s,data=abc";
  const LUKS = "--image-opts driver=qcow2,file.filename=luks.qcow2,encrypt.key-secret=s";

  test.each([
    "info --output=json luks.qcow2",
    "info essiv.qcow2",
    "info aes.qcow2",
    "info a.luks",
    `info ${LUKS}`,
    `info --output=json ${KEY} --image-opts driver=luks,file.filename=a.luks,key-secret=s`,
    `map --output=json ${KEY} ${LUKS}`,
    "map aes.qcow2",
    `map --object secret,id=s,data=wrong ${LUKS}`,
    `map --object secret,id=s,data=YWJj,format=base64 --output=json ${LUKS}`,
    'map --object {"qom-type":"secret","id":"s","data":"abc"} --output=json luks.qcow2',
    "info --object secret,id=s,data=x,file=y luks.qcow2",
    "info --object foo,id=s luks.qcow2",
    "check luks.qcow2",
    "check --output=json aes.qcow2",
    "check a.luks",
    `check --object secret,id=s,data=wrong ${LUKS}`,
    `check ${KEY} --image-opts driver=luks,file.filename=a.luks,key-secret=s`,
    "convert luks.qcow2 x.raw",
    "snapshot -l luks.qcow2",
    `convert -c ${KEY} -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s plain.qcow2 x.qcow2`,
    `measure ${KEY} -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s --size 1G`,
    `measure ${KEY} -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=aes-128 plain.qcow2`,
    `measure --output=json ${KEY} -O luks -o key-secret=s --size 1G`,
    "measure -O qcow2 -o encrypt.format=luks --size 1G",
    "create -f qcow2 -b luks.qcow2 -F qcow2 overlay.qcow2",
    "create -f luks -o key-secret=nobody x.luks 1M",
    `create ${KEY} -f luks -o key-secret=s,cipher-alg=foo x.luks 1M`,
    "create -f qcow2 -o encrypt.format=luks x.qcow2 1M",
    `create ${KEY} -f qcow2 -o encryption=on,encrypt.format=aes,encrypt.key-secret=s x.qcow2 1M`,
    `create ${KEY} -f qcow2 -o encrypt.format=aes,encrypt.key-secret=s,encrypt.hash-alg=sha1 x.qcow2 1M`,
    `create ${KEY} -f qcow2 -o encryption=on,encrypt.key-secret=s aes2.qcow2 1M`,
  ])("%s", async (line) => {
    const [ours, theirs] = await both(words(line));
    expect(ours).toEqual(theirs);
  });

  test("what is created with a key is what both read with it", async () => {
    const key = ["--object", "secret,id=s,file=password"];
    const image = ["--image-opts", "driver=qcow2,file.filename=luks.qcow2,encrypt.key-secret=s"];
    const io = ["io", ...key, ...image, "-c", "write -P 7 1M 70000"];
    expect(await spindle(io, options)).toMatchObject({ code: 0 });
    scratch.tool(qemuImg as string, "check", ...key, ...image);
    scratch.tool(qemuImg as string, "convert", ...key, ...image, "-O", "raw", "theirs.raw");
    expect(await spindle(["convert", ...key, ...image, "ours.raw"], options)).toMatchObject({ code: 0 });
    expect(await spindle(["check", ...key, ...image], options)).toMatchObject({ code: 0 });
    scratch.tool("cmp", "ours.raw", "theirs.raw");
  });
});
