/** `check` prints what qemu-img prints, on both streams, and ends with its exit codes; a repair is judged by qemu-img. */
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { peer } from "@spindle/testkit/peers";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { run, Scratch, spindle } from "./program.ts";

const qemuImg = peer("qemu-img");
const qemuIo = peer("qemu-io");

describe.skipIf(qemuImg === undefined || qemuIo === undefined)("check, as qemu-img", () => {
  const scratch = new Scratch();
  const img = (...argv: string[]): string => scratch.tool(qemuImg as string, ...argv);

  /** Changes bytes of an image: where the refcount block of a new image stands, counts are 16 bits. */
  function change(name: string, from: string, ...changes: (readonly [offset: number, value: number])[]): void {
    const bytes = readFileSync(scratch.path(from));
    for (const [offset, value] of changes) bytes.writeUInt16BE(value, offset);
    writeFileSync(scratch.path(name), bytes);
  }

  beforeAll(() => {
    img("create", "-f", "qcow2", "good.qcow2", "64M");
    scratch.tool(qemuIo as string, "-c", "write 0 1M", "-c", "write -c 2M 64k", "-c", "write 9M 64k", "good.qcow2");
    img("create", "-f", "raw", "good.raw", "1M");
    img("create", "-f", "qcow2", "empty.qcow2", "0");
    img("create", "-f", "qcow2", "-o", "compat=0.10", "old.qcow2", "1M");
    change("leaks.qcow2", "good.qcow2", [0x20000 + 2 * 9, 2], [0x20000 + 2 * 10, 4]);
    change("low.qcow2", "good.qcow2", [0x20000 + 2 * 9, 0]);
    change("both.qcow2", "good.qcow2", [0x20000 + 2 * 9, 0], [0x20000 + 2 * 10, 4]);
    change("flags.qcow2", "good.qcow2", [0x30000, 0]);
    change("unaligned.qcow2", "good.qcow2", [0x10006, 0x0100]);
    change("marked.qcow2", "good.qcow2", [78, 2]);
    img("create", "-f", "qcow2", "bitmap.qcow2", "1M");
    img("bitmap", "--add", "bitmap.qcow2", "b0");
    // As a program leaves it that does not know of bitmaps.
    change("stale.qcow2", "bitmap.qcow2", [94, 0]);
  });
  afterAll(() => scratch[Symbol.dispose]());

  const DAMAGED = ["leaks", "low", "both", "flags", "unaligned", "marked"].map((name) => `${name}.qcow2`);

  test.each(
    [
      ["good.qcow2"],
      ["good.raw"],
      ["empty.qcow2"],
      ["old.qcow2"],
      ["-f", "qcow2", "--output=json", "good.qcow2"],
      ["-q", "good.qcow2"],
      ["stale.qcow2"],
      ["--output=json", "stale.qcow2"],
      ["-q", "--output=json", "leaks.qcow2"],
      ["-T", "none", "-U", "good.qcow2"],
      ["-T", "nonsense", "good.qcow2"],
      ["-r", "nonsense", "good.qcow2"],
      ["-U", "-r", "all", "good.qcow2"],
      ["-f", "qcow2", "good.raw"],
      ["-f", "nonsense", "good.raw"],
      ["missing.qcow2"],
      ["good.qcow2", "good.qcow2"],
      ["--output=nonsense", "good.qcow2"],
      [],
      ...DAMAGED.filter((name) => name !== "unaligned.qcow2").flatMap((name) => [[name], ["--output=json", name]]),
    ].map((words) => [words.join(" "), words] as const),
  )("check %s", { concurrent: true }, async (_title, words) => {
    const ours = await spindle(["--as", "qemu-img", "check", ...words], { cwd: scratch.folder });
    const theirs = await run([qemuImg as string, "check", ...words], { cwd: scratch.folder });
    expect(ours.stdout).toBe(theirs.stdout);
    expect(ours.code).toBe(theirs.code);
    // Where something is wrong with the command line or the file, both say so, in words of their own.
    if (theirs.code === 1) expect(ours.stderr).toMatch(/^qemu-img: .*\n(Try .*\n)?$/);
    else expect(ours.stderr).toBe(theirs.stderr);
  });

  test.each(["info", "map", "measure -O raw", "snapshot -l"])("%s warns of stale bitmaps", async (line) => {
    const words = [...line.split(" "), "stale.qcow2"];
    const ours = await spindle(["--as", "qemu-img", ...words], { cwd: scratch.folder });
    expect(ours).toMatchObject(await run([qemuImg as string, ...words], { cwd: scratch.folder }));
  });

  test.each(DAMAGED.flatMap((name) => [[name, "leaks"] as const, [name, "all"] as const]))(
    "check -r on %s (%s)",
    async (name, repair) => {
      using own = new Scratch();
      const judge = async (program: "ours" | "theirs") => {
        copyFileSync(scratch.path(name), own.path("image.qcow2"));
        const words = ["check", "-r", repair, "image.qcow2"];
        if (program === "ours") return await spindle(["--as", "qemu-img", ...words], { cwd: own.folder });
        return await run([qemuImg as string, ...words], { cwd: own.folder });
      };
      const theirs = await judge("theirs");
      const ours = await judge("ours");
      // QEMU marks an image corrupt, and gives up, when a refcount block is not on a cluster.
      if (name !== "unaligned.qcow2") expect(ours.stdout).toBe(theirs.stdout);
      if (name !== "unaligned.qcow2") expect(ours.code).toBe(theirs.code);
      if (repair === "all") {
        expect(ours.code).toBe(0);
        expect(own.tool(qemuImg as string, "check", "image.qcow2")).toMatch(/^No errors were found/);
        expect(own.tool(qemuImg as string, "compare", "image.qcow2", scratch.path("good.qcow2"))).toMatch(/identical/);
      }
    },
  );
});
